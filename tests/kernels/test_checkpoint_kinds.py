"""Checkpoints of every kind, each against the dense model made of its dequantised weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_models
from accel_kernels.formats import FormatError, QuantizedWeight, awq, compressed_tensors, gptq
from accel_kernels.layer import QuantizedLinear
from test_formats import random_weight
from tiny_models import logits, relative

pytestmark = [
    pytest.mark.usefixtures("served"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of checkpoint. `low` is the least zero; `kept` are layers left in full precision."""

    method: str = "gptq"
    bits: int = 4
    group: int = 32
    act_order: bool = False
    sym: bool = False
    v1: bool = True
    mislabelled: bool = False
    kept: str | None = None
    model: str = "llama"
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


WIDE = {"hidden_size": 128, "intermediate_size": 256}
ODD = {"hidden_size": 96, "intermediate_size": 352}
KINDS = {
    "gptq act order": Kind(act_order=True),
    "gptq per channel": Kind(group=-1),
    "gptq per channel, act order, v2": Kind(group=-1, act_order=True, v1=False),
    "gptq v2": Kind(v1=False),
    "gptq v2 called v1": Kind(sym=True, mislabelled=True),
    "gptq symmetric": Kind(sym=True),
    "gptq 8 bits, groups of 128": Kind(bits=8, group=128, sizes=WIDE),
    "gptq 3 bits": Kind(bits=3),
    "gptq 3 bits, act order, v2": Kind(bits=3, act_order=True, v1=False),
    "gptq 2 bits": Kind(bits=2),
    "gptq 2 bits called v1, v2 inside": Kind(bits=2, sym=True, mislabelled=True),
    "gptq of a Qwen2, biases": Kind(model="qwen2", act_order=True),
    "gptq, tied embeddings": Kind(sizes={"tie_word_embeddings": True}),
    "gptq, K no multiple of 256": Kind(sizes=ODD),
    "gptq, layers left out": Kind(kept="down_proj", extra={"dynamic": {"-:.*down_proj": {}}}),
    "awq groups of 32": Kind("awq"),
    "awq groups of 128": Kind("awq", group=128, sizes=WIDE),
    "awq per channel": Kind("awq", group=-1),
    "awq of a Qwen2, biases": Kind("awq", model="qwen2"),
    "awq, tied embeddings": Kind("awq", sizes={"tie_word_embeddings": True}),
    "awq, K no multiple of 256": Kind("awq", sizes=ODD),
    "awq, layers left out": Kind(
        "awq", kept="o_proj", extra={"modules_to_not_convert": ["o_proj"]}
    ),
    "compressed-tensors symmetric": Kind("compressed-tensors", sym=True),
    "compressed-tensors asymmetric": Kind("compressed-tensors"),
    "compressed-tensors, act order": Kind("compressed-tensors", sym=True, act_order=True),
    "compressed-tensors, per channel, 8 bits": Kind("compressed-tensors", bits=8, group=-1),
}  # fmt: skip


def drawn(kind: Kind, k: int, n: int, seed: int) -> QuantizedWeight:
    """A weight of this kind, about as large as a trained one's."""
    middle = 1 << (kind.bits - 1)
    low = 1 if kind.method == "gptq" and kind.v1 else 0
    weight = random_weight(
        kind.bits, k, n, kind.group, act_order=kind.act_order, low=low, seed=seed
    )
    if kind.sym:
        zeros = torch.full_like(weight.zeros(), middle)
        weight = dataclasses.replace(weight, qzeros=gptq.packing.pack(zeros, kind.bits, dim=1))
    return dataclasses.replace(weight, scales=weight.scales / (4 * middle))


def tensors_of(kind: Kind, weight: QuantizedWeight) -> dict[str, torch.Tensor]:
    if kind.method == "awq":
        return awq.write(weight)
    if kind.method == "gptq":
        return gptq.write(weight, v1=kind.v1 and not kind.mislabelled)
    return compressed_tensors.write(weight, asymmetric=not kind.sym, act_order=kind.act_order)


def config_of(kind: Kind) -> dict[str, Any]:
    common = {"quant_method": kind.method, "bits": kind.bits, "group_size": kind.group}
    if kind.method == "awq":
        return {**common, "version": "gemm", "zero_point": True, **kind.extra}
    if kind.method == "gptq":
        stored = "gptq" if kind.v1 else "gptq_v2"
        said = {"sym": kind.sym, "desc_act": kind.act_order, "checkpoint_format": stored}
        return {**common, **said, **kind.extra}
    weights = {
        "num_bits": kind.bits, "group_size": kind.group, "symmetric": kind.sym, "type": "int",
        "strategy": "channel" if kind.group == -1 else "group",
        "actorder": "group" if kind.act_order else None,
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }  # fmt: skip


def written(kind: Kind, folder: Path) -> tuple[Path, Path, int]:
    """The checkpoint, the dense model that it means, and the number of its quantised layers."""
    dense = tiny_models.plain(folder / "dense", kind.model, changes=kind.sizes)
    plain = load_file(dense / "model.safetensors")
    stored, layers = dict(plain), 0
    for key in [key for key in plain if key.endswith("_proj.weight")]:
        name = key.removesuffix(".weight")
        if kind.kept and name.endswith(kind.kept):
            continue
        weight = drawn(kind, plain[key].shape[1], plain[key].shape[0], seed=layers)
        del stored[key]
        for part, tensor in tensors_of(kind, weight).items():
            stored[f"{name}.{part}"] = tensor.contiguous()
        plain[key] = weight.dequantize().t().contiguous()
        layers += 1
    save_file(plain, dense / "model.safetensors", metadata={"format": "pt"})
    made = folder / "quantised"
    shutil.copytree(dense, made)
    save_file(stored, made / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((made / "config.json").read_text())
    config["quantization_config"] = config_of(kind)
    (made / "config.json").write_text(json.dumps(config))
    return made, dense, layers


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_dense_model(name: str, tmp_path: Path) -> None:
    folder, dense, layers = written(KINDS[name], tmp_path)
    model, expected = load(folder), logits(load(dense))
    quantised = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    assert len(quantised) == layers
    assert relative(logits(model), expected) < 1e-5
    assert relative(logits(load(folder, torch.bfloat16)), expected) < 4e-2
    model.save_pretrained(tmp_path / "again")
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_shards_with_an_index(tmp_path: Path) -> None:
    folder, dense, _ = written(Kind("awq"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights = {}
    for number in range(3):  # so that the tensors of one layer lie in several files
        names = sorted(tensors)[number::3]
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        save_file({key: tensors[key] for key in names}, folder / file, metadata={"format": "pt"})
        weights.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": 1}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert relative(logits(load(folder)), logits(load(dense))) < 1e-5


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    folder, _, _ = written(Kind("awq"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"pytorch_model\.bin"):
        load(folder)
