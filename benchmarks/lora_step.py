"""Times a whole LoRA step of a 7B model with random weights: ours beside NF4 and 16-bit weights.

    python benchmarks/lora_step.py [--out FOLDER] [--only ours,nf4] [--layers 28]

The shape is Qwen2.5-7B's; rank 16 on all linear layers, fp32 adapters under bf16 autocast, AdamW,
gradient checkpointing, sdpa. Each case runs in a process of its own; medians of the steps after
the first three. Cases that end in `+liger` need liger-kernel, `nf4` needs bitsandbytes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CASES = ("bf16", "nf4", "ours", "bf16+liger", "nf4+liger", "ours+liger", "ours.triton")
MATMUL_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GROUP, RANK, WARM = 128, 16, 3


def config(layers: int) -> Any:
    """Qwen2.5-7B's configuration."""
    from transformers import Qwen2Config

    return Qwen2Config(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=layers,
        num_attention_heads=28, num_key_value_heads=4, vocab_size=152064,
        max_position_embeddings=32768, rope_theta=1e6, rms_norm_eps=1e-6,
        tie_word_embeddings=False, use_cache=False, attn_implementation="sdpa",
    )  # fmt: skip


def quantized(linear: Any, provider: str) -> Any:
    """An AWQ layer of that size with random words, as a checkpoint would bring it."""
    import torch
    from torch import nn

    from accel_kernels.layer import QuantizedLinear, Scheme

    layer = QuantizedLinear(
        linear.in_features, linear.out_features, Scheme("awq", 4, GROUP),
        bias=linear.bias is not None, dtype=torch.bfloat16, device="cuda",
    )  # fmt: skip
    for name, tensor in layer.stored().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.001, 0.003)
        else:
            tensor.random_(-(2**31), 2**31 - 1)
        setattr(layer, name, nn.Parameter(tensor, requires_grad=False))
    layer.bias = linear.bias
    layer.finish((provider, "torch"))
    if layer.provider != provider:
        raise RuntimeError(f"{provider}: {layer.refused}")
    return layer


def nf4(linear: Any) -> Any:
    """bitsandbytes' layer with the same weight, scales quantised too."""
    import bitsandbytes as library
    import torch

    layer = library.nn.Linear4bit(
        linear.in_features, linear.out_features, linear.bias is not None,
        compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4",
    )  # fmt: skip
    layer.weight = library.nn.Params4bit(
        linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    layer.bias = linear.bias
    return layer.to("cuda")


def model_of(case: str, layers: int) -> Any:
    """The model with its adapters, ready to train."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2ForCausalLM

    kind, _, liger = case.partition("+")
    if liger:
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2

        apply_liger_kernel_to_qwen2()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(config(layers))
    torch.set_default_dtype(torch.float32)
    if kind != "bf16":
        provider = kind.partition(".")[2] or "cuda"
        for block in model.model.layers:
            for parent in (block.self_attn, block.mlp):
                for name in MATMUL_LAYERS:
                    linear = getattr(parent, name, None)
                    if linear is not None:
                        made = nf4(linear) if kind == "nf4" else quantized(linear, provider)
                        setattr(parent, name, made)
    model.is_loaded_in_4bit = kind == "nf4"
    torch.cuda.empty_cache()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    adapters = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(MATMUL_LAYERS))
    return get_peft_model(model, adapters).train()


def run(case: str, layers: int, tokens: int, steps: int) -> dict[str, float]:
    """Tokens per second, peak GiB and the last loss of one case, in this process."""
    import torch

    if case.startswith("ours"):
        import accel

        accel.auto()
    model = model_of(case, layers)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    words = torch.randint(0, 152064, (1, tokens), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    taken = []
    for step in range(WARM + steps):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=words, labels=words).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        if step >= WARM:
            taken.append(time.perf_counter() - begin)
    return {
        "tokens_per_second": tokens / statistics.median(taken),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "loss": float(loss),
    }


def main() -> int:
    """Run every case, print the table, write JSON."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    words.add_argument("--only", default=",".join(CASES))
    words.add_argument("--layers", type=int, default=28)
    words.add_argument("--tokens", type=int, default=4096)
    words.add_argument("--steps", type=int, default=8)
    words.add_argument("--out", default="results")
    words.add_argument("--here", help="run this one case in this process and print its JSON")
    asked = words.parse_args()
    if asked.here:
        print(json.dumps(run(asked.here, asked.layers, asked.tokens, asked.steps)))
        return 0
    found: dict[str, dict[str, float]] = {}
    for case in asked.only.split(","):
        command = [sys.executable, __file__, "--here", case, "--layers", str(asked.layers),
                   "--tokens", str(asked.tokens), "--steps", str(asked.steps)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reason = lines[-1][:200] if lines else done.returncode
            print(f"{case:12} left out: {reason}", flush=True)
            continue
        one = found[case] = json.loads(done.stdout.splitlines()[-1])
        speed, peak = f"{one['tokens_per_second']:8.0f} tokens/s", f"{one['peak_gib']:6.1f} GiB"
        print(f"{case:12} {speed} {peak}  loss {one['loss']:.3f}", flush=True)
    speeds = {case: one["tokens_per_second"] for case, one in found.items()}
    best = max((v for case, v in speeds.items() if not case.startswith("ours")), default=0)
    for case in [case for case in speeds if best and case.startswith("ours")]:
        print(f"{case}: {speeds[case] / best:.2f} of the best of the others")
    folder = Path(asked.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lora_step.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
