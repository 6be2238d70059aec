"""Loads a synthetic AWQ checkpoint with a Qwen2.5-7B's layers: time and memory beyond the model's.

    python benchmarks/loading.py FOLDER [--layers 28] [--dtype bfloat16] [--cold] [--json]

FOLDER is written where it is not there yet: random words in shards, 118 MB a layer and 2.2 GB of
embeddings. Measured in a child process each: reading the files, then `from_pretrained`; with --cold
both from the disk, else from the memory that the system keeps files in. On a machine that others
use the processor's seconds say more than the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HIDDEN, MLP, HEADS, KEYS, VOCABULARY, GROUP = 3584, 18944, 28, 4, 152064, 128

READ = """
import sys, time, pathlib
begin = time.perf_counter()
buffer = bytearray(1 << 24)
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    with open(path, "rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass
print(time.perf_counter() - begin)
"""

LOAD = """
import json, sys, time, threading
import accel
accel.auto("cpu")
import psutil, torch
from transformers import AutoModelForCausalLM
process = psutil.Process()
def private():
    # Pages of the mapped files count as the page cache's: the kernel takes them back at need.
    memory = process.memory_info()
    return memory.rss - memory.shared
before, peak, done = private(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, private())
        time.sleep(0.005)
watcher = threading.Thread(target=watch)
watcher.start()
begin, spent = time.perf_counter(), time.process_time()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], torch_dtype=getattr(torch, sys.argv[2]))
seconds, spent = time.perf_counter() - begin, time.process_time() - spent
done = True
watcher.join()
tensors = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
           for t in [*model.parameters(), *model.buffers()]}
providers = sorted({m.provider for m in model.modules() if hasattr(m, "provider")})
print(json.dumps({"seconds": seconds, "processor": spent, "model": sum(tensors.values()),
                  "grown": private() - before, "peak": peak - before,
                  "rss": process.memory_info().rss, "providers": providers}))
"""


def write(folder: Path, layers: int, vocabulary: int) -> None:
    """The checkpoint: a shard for each four layers and one for the embeddings."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    made = torch.Generator().manual_seed(0)
    weights: dict[str, str] = {}

    def save(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weights.update(dict.fromkeys(tensors, name))

    kv = HIDDEN // HEADS * KEYS
    linear = {
        "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN, kv),
        "self_attn.v_proj": (HIDDEN, kv), "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (HIDDEN, MLP), "mlp.up_proj": (HIDDEN, MLP),
        "mlp.down_proj": (MLP, HIDDEN),
    }  # fmt: skip

    def words(*shape: int) -> torch.Tensor:
        return torch.randint(-(2**31), 2**31, shape, generator=made, dtype=torch.int32)

    for first in range(0, layers, 4):
        tensors = {}
        for index in range(first, min(first + 4, layers)):
            for name, (k, n) in linear.items():
                key = f"model.layers.{index}.{name}"
                tensors[f"{key}.qweight"] = words(k, n // 8)
                tensors[f"{key}.qzeros"] = words(k // GROUP, n // 8)
                tensors[f"{key}.scales"] = torch.full((k // GROUP, n), 2e-3, dtype=torch.float16)
                if name[-6:] in ("q_proj", "k_proj", "v_proj"):
                    tensors[f"{key}.bias"] = torch.zeros(n, dtype=torch.float16)
            for name in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"model.layers.{index}.{name}.weight"] = torch.ones(
                    HIDDEN, dtype=torch.float16
                )
        save(f"model-{first // 4}.safetensors", tensors)
    shape = (vocabulary, HIDDEN)
    save("embeddings.safetensors", {
        "model.embed_tokens.weight": torch.full(shape, 0.02, dtype=torch.float16),
        "lm_head.weight": torch.full(shape, 0.02, dtype=torch.float16),
        "model.norm.weight": torch.ones(HIDDEN, dtype=torch.float16),
    })  # fmt: skip
    index = {"metadata": {}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": HIDDEN,
        "intermediate_size": MLP, "num_attention_heads": HEADS, "num_key_value_heads": KEYS,
        "num_hidden_layers": layers, "vocab_size": vocabulary, "tie_word_embeddings": False,
        "torch_dtype": "float16", "quantization_config": {
            "quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm",
            "zero_point": True,
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def forget(folder: Path) -> None:
    """Have the system drop what it keeps of the files."""
    for path in folder.glob("*.safetensors"):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)  # what is not yet written cannot be dropped
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def child(code: str, *arguments: str) -> str:
    """The last line that a child prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cold", action="store_true", help="read from the disk, not from memory")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not (options.folder / "config.json").is_file():
        write(options.folder, options.layers, options.vocabulary)
    size = sum(path.stat().st_size for path in options.folder.glob("*.safetensors"))
    if options.cold:
        forget(options.folder)
    reading = float(child(READ, str(options.folder)))
    if options.cold:
        forget(options.folder)
    found: dict[str, Any] = json.loads(child(LOAD, str(options.folder), options.dtype))
    found = {**found, "files": size, "reading": reading, "beyond": found["peak"] - found["model"]}
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"{size / 1e9:.2f} GB of files, read in {reading:.1f} s; "
        f"loaded in {found['seconds']:.1f} s ({found['processor']:.1f} s of processors) by "
        f"{', '.join(found['providers'])}; "
        f"the model has {found['model'] / 1e9:.2f} GB, memory "
        f"grew by {found['grown'] / 1e9:.2f} and by {found['peak'] / 1e9:.2f} at its peak: "
        f"{found['beyond'] / 1e9:.2f} GB beyond the model"
    )


if __name__ == "__main__":
    main()
