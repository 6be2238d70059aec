"""Tiny random language models, and their quantised checkpoints by our own writers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from accel_kernels import quantizing
from accel_kernels.layer import QuantizedLinear

HIDDEN, MLP, VOCABULARY, LAYERS = 64, 96, 128, 2
GROUP = 32
LAYER = "model.layers.1.mlp.up_proj"
PER_LAYER = 7
"""Quantised layers of a block: q, k, v, o, gate, up and down."""
SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

EXPERTS = 4
ROUTED = {
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_experts": EXPERTS,
    "decoder_sparse_step": 1,
}  # fmt: skip
KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),  # has biases
    "qwen2_moe": ("Qwen2Moe", {**ROUTED, "shared_expert_intermediate_size": 64}),
    "qwen3_moe": ("Qwen3Moe", {**ROUTED, "head_dim": 16}),
    "mixtral": ("Mixtral", {"num_local_experts": EXPERTS, "num_experts_per_tok": 2}),
}


def plain(
    folder: Path,
    kind: str = "llama",
    dtype: torch.dtype = torch.float32,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """A model of `kind`, one of KINDS, its head not tied unless changed so."""
    import transformers

    name, own = KINDS[kind]
    sizes = {**SIZES, "tie_word_embeddings": False, **own, **(changes or {})}
    config = getattr(transformers, f"{name}Config")(**sizes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
            elif any(part in name for part in ("proj", "lm_head", ".gate.", "shared_expert_gate")):
                parameter.normal_(std=0.2)
    model.to(dtype).save_pretrained(folder)
    return folder


def quantized(source: Path, folder: Path, format: str = "awq", **changes: Any) -> Path:  # noqa: A002
    """The model in `source`, rounded."""
    recipe = quantizing.Recipe(format, **{"bits": 4, "group_size": GROUP, **changes})  # type: ignore[arg-type]
    quantizing.write(quantizing.plan(source, recipe), folder)
    return folder


def tokens(rows: int = 2, length: int = 12) -> torch.Tensor:
    made = torch.Generator().manual_seed(1)
    return torch.randint(3, VOCABULARY, (rows, length), generator=made)


def logits(model: torch.nn.Module, ids: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=tokens() if ids is None else ids).logits
    return found


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def load(folder: Path, dtype: torch.dtype | None = torch.float32, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype, **options)


def quantised_layers(model: torch.nn.Module) -> dict[str, QuantizedLinear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLinear)
    }


def changed(source: Path, target: Path, change: Any, config: Any = None) -> Path:
    """A copy of a checkpoint with its tensors, and its quantization_config, changed."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        document = json.loads((target / "config.json").read_text())
        config(document["quantization_config"])
        (target / "config.json").write_text(json.dumps(document))
    return target
