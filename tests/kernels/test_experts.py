"""Mixtures of experts: rounded, loaded, saved, trained; as several programs name their layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_models
from accel_kernels.formats import FormatError, gptq
from accel_kernels.integrations.experts import SplitExperts
from accel_kernels.integrations.transformers import dequantize
from accel_kernels.layer import QuantizedLinear, Scheme
from tiny_models import EXPERTS, GROUP, LAYERS, load, logits, quantised_layers, relative

pytestmark = [
    pytest.mark.usefixtures("served"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
KINDS = ("qwen2_moe", "qwen3_moe", "mixtral")
FILE = "model.safetensors"
Renamed = Callable[[str], str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, served: object) -> dict[str, Path]:
    """Of each kind the model and a GPTQ checkpoint of it, of one an AWQ one too."""
    root = tmp_path_factory.mktemp("experts")
    folders = {kind: tiny_models.plain(root / kind, kind) for kind in KINDS}
    for kind in KINDS:
        folders[f"{kind}-gptq"] = tiny_models.quantized(folders[kind], root / f"{kind}-q", "gptq")
    folders["qwen3_moe-awq"] = tiny_models.quantized(folders["qwen3_moe"], root / "awq", "awq")
    return folders


def dense(source: Path, quantised: Path, folder: Path) -> Path:
    """The model that a GPTQ checkpoint means, as plain weights under the names of `source`."""
    plain, stored = load_file(source / FILE), load_file(quantised / FILE)
    scheme = Scheme("gptq", 4, GROUP, sym=True)
    for key in [key for key in stored if key.endswith(".qweight")]:
        name = key.removesuffix(".qweight")
        parts = {part: stored[f"{name}.{part}"] for part in gptq.TENSORS}
        out_features, in_features = plain[f"{name}.weight"].shape
        weight = scheme.read(parts, in_features, out_features, name).dequantize().t()
        plain[f"{name}.weight"] = weight.contiguous()
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    save_file(plain, folder / FILE, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_dense_model_and_saves_as_it_was(
    kind: str, made: dict[str, Path], tmp_path: Path
) -> None:
    folder = made[f"{kind}-gptq"]
    model = load(folder)
    own = quantised_layers(model)
    shared = 3 if kind == "qwen2_moe" else 0
    assert len(own) == LAYERS * (4 + 3 * EXPERTS + shared)
    expected = logits(load(dense(made[kind], folder, tmp_path / "dense")))
    assert relative(logits(model), expected) < 1e-5
    short = load(folder, torch.bfloat16)
    assert {tensor.dtype for tensor in short.parameters()} == {torch.bfloat16}
    errors = (logits(short) - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(errors.median()) < 5e-2  # rounding sends some tokens to other experts
    model.save_pretrained(tmp_path / "again")
    assert relative(logits(load(tmp_path / "again")), expected) < 1e-5
    before, after = load_file(folder / FILE), load_file(tmp_path / "again" / FILE)
    assert sorted(map(str.lower, before)) == sorted(map(str.lower, after))
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_awq(made: dict[str, Path]) -> None:
    model = load(made["qwen3_moe-awq"])
    expected = logits(load(made["qwen3_moe"]))
    assert relative(logits(model), expected) < 0.6  # 4 bits of random numbers
    assert relative(logits(dequantize(load(made["qwen3_moe-awq"]))), logits(model)) < 1e-5
    assert all(isinstance(block.mlp.experts, SplitExperts) for block in model.model.layers)


def test_routers_are_left_alone_and_said_to_be(made: dict[str, Path]) -> None:
    for name, kept in (
        ("qwen2_moe-gptq", ["gate", "shared_expert_gate"]),
        ("qwen3_moe-awq", ["gate"]),
    ):
        tensors = load_file(made[name] / FILE)
        assert all(f"model.layers.0.mlp.{router}.weight" in tensors for router in kept)
        config = json.loads((made[name] / "config.json").read_text())["quantization_config"]
        if config["quant_method"] == "awq":
            assert config["modules_to_not_convert"] == ["lm_head", *kept]
        else:
            assert list(config["dynamic"]) == [rf"-:.*\.{router}$" for router in kept]


def as_autoawq(name: str) -> str:
    """What it and the first Mixtrals call the layers."""
    return name.replace(".mlp.", ".block_sparse_moe.")


def as_gptqmodel(name: str) -> str:
    """What GPTQModel 7 writes for a Mixtral."""
    name = name.replace(".block_sparse_moe.", ".mlp.")
    for theirs, ours in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
        name = name.replace(f".{theirs}.", f".{ours}.")
    return name


@pytest.mark.parametrize("renamed", [as_autoawq, as_gptqmodel])
def test_the_names_of_other_programs(
    renamed: Renamed, made: dict[str, Path], tmp_path: Path
) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        changed = {renamed(key): tensor for key, tensor in tensors.items()}
        assert changed.keys() != tensors.keys() or renamed is as_autoawq
        tensors.clear()
        tensors.update(changed)

    folder = tiny_models.changed(made["mixtral-gptq"], tmp_path / "named", change)
    model = load(folder)
    expected = logits(load(made["mixtral-gptq"]))
    assert relative(logits(model), expected) < 1e-6
    model.save_pretrained(tmp_path / "again")
    assert relative(logits(load(tmp_path / "again")), expected) < 1e-6


def test_experts_that_are_quantised_in_part_are_refused(
    made: dict[str, Path], tmp_path: Path
) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if ".layers.1.mlp.experts.2.up_proj." in key]:
            del tensors[key]

    folder = tiny_models.changed(made["qwen3_moe-gptq"], tmp_path / "part", change)
    with pytest.raises(FormatError, match=r"layers\.1\.mlp\.experts[^$]*11 layers of 12"):
        load(folder)


def test_a_lora_of_the_experts_learns(made: dict[str, Path]) -> None:
    import peft

    model = load(made["qwen3_moe-gptq"])
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    adapted = [
        name for name, module in model.named_modules()
        if "experts" in name and isinstance(getattr(module, "base_layer", None), QuantizedLinear)
    ]  # fmt: skip
    assert len(adapted) == LAYERS * 3 * EXPERTS
    ids = tiny_models.tokens()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses: list[float] = []
    for _ in range(8):
        loss: Any = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5


def test_no_token_for_an_expert_is_no_trouble(made: dict[str, Path]) -> None:
    experts = load(made["qwen3_moe-gptq"]).model.layers[0].mlp.experts
    x = torch.randn(3, tiny_models.HIDDEN)
    weights = torch.rand(3, 2)
    one = experts(x, torch.tensor([[1, 2], [1, 2], [2, 1]]), weights)
    expected = torch.stack(
        [
            sum(
                weight * experts._one(int(index), row[None])[0]
                for index, weight in zip(chosen, shares, strict=True)
            )
            for row, chosen, shares in zip(x, ([1, 2], [1, 2], [2, 1]), weights, strict=True)
        ]
    )
    assert relative(one, expected) < 1e-5
    # An index past the last expert is one that another process has.
    beyond = experts(x, torch.tensor([[1, EXPERTS], [1, EXPERTS], [EXPERTS, 1]]), weights)
    assert beyond.isfinite().all()
    assert experts(x[:0], torch.empty(0, 2, dtype=torch.int64), weights[:0]).shape == (0, 64)
