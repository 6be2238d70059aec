"""Checkpoints that are damaged, unusual or said in another format, through `from_pretrained`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_models
from accel_kernels.formats import FormatError
from accel_kernels.integrations import layers
from tiny_models import LAYER, PER_LAYER, changed, load, logits, quantised_layers, relative

pytestmark = [
    pytest.mark.usefixtures("served"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.mark.parametrize("key", ["qzeros", "scales"])
@pytest.mark.parametrize("name", ["llama-awq", "llama-gptq"])
def test_a_missing_tensor_is_an_error_that_names_the_layer(
    name: str, key: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = changed(checkpoints[name], tmp_path / "x", lambda t: t.pop(f"{LAYER}.{key}"))
    with pytest.raises(FormatError, match=rf"{LAYER} is quantised and lacks {key}"):
        load(folder)


def test_a_tensor_of_another_shape_is_an_error_that_names_it(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{LAYER}.qweight"] = tensors[f"{LAYER}.qweight"][:-1].contiguous()

    folder = changed(checkpoints["llama-gptq"], tmp_path / "x", cut)
    with pytest.raises(FormatError, match=rf"{LAYER}.qweight must be \[8, 96\]"):
        load(folder)
    with pytest.raises(FormatError, match="group_size 16 in config"):
        load(
            changed(
                checkpoints["llama-gptq"],
                tmp_path / "y",
                lambda t: None,
                lambda c: c.update(group_size=16),
            )
        )


@pytest.mark.parametrize("keep", [0.9, 0.001, 0.0])
def test_a_file_that_was_cut_off_is_an_error_that_names_it(
    keep: float, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoints["llama-awq"], tmp_path / "x")
    path = tmp_path / "x" / "model.safetensors"
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(FormatError, match=r"model\.safetensors is not a whole"):
        load(tmp_path / "x")


def test_groups_that_are_not_there_only_count(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if key.endswith("g_idx")]:
            del tensors[key]

    folder = changed(checkpoints["llama-gptq"], tmp_path / "x", drop)
    model = load(folder)
    assert torch.equal(logits(model), logits(load(checkpoints["llama-gptq"])))
    model.save_pretrained(tmp_path / "y")
    assert not [key for key in load_file(tmp_path / "y/model.safetensors") if "g_idx" in key]


def test_groups_out_of_range_are_an_error_that_names_the_layer(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{LAYER}.g_idx"][3] = 99

    with pytest.raises(FormatError, match=rf"{LAYER}.g_idx must name groups from 0 to 1"):
        load(changed(checkpoints["llama-gptq"], tmp_path / "x", spoil))


def test_what_the_files_hold_decides_which_layers_are_quantised(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """A layer in full precision, named by no list of the config, and a quantised head."""
    plain = load_file(checkpoints["llama"] / "model.safetensors")
    stored = load_file(checkpoints["llama-awq"] / "model.safetensors")
    from accel_kernels import quantizing

    recipe = quantizing.Recipe("awq", group_size=tiny_models.GROUP)
    head, _, _ = quantizing._layer(plain["lm_head.weight"], recipe)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for part in ("qweight", "qzeros", "scales"):
            del tensors[f"{LAYER}.{part}"]
        tensors[f"{LAYER}.weight"] = plain[f"{LAYER}.weight"]
        del tensors["lm_head.weight"]
        tensors.update({f"lm_head.{part}": tensor for part, tensor in head.items()})

    assert f"{LAYER}.qweight" in stored
    folder = changed(
        checkpoints["llama-awq"], tmp_path / "x", change, lambda c: c.update(lm_head=True)
    )
    model = load(folder)
    found = quantised_layers(model)
    assert LAYER not in found
    assert "lm_head" in found
    assert len(found) == PER_LAYER * tiny_models.LAYERS
    assert relative(logits(model), logits(load(checkpoints["llama-awq"]))) < 0.5


def test_dynamic_changes_bits_and_groups_of_single_layers(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plain = load_file(checkpoints["llama"] / "model.safetensors")
    from accel_kernels import quantizing

    eight = quantizing.Recipe("gptq", bits=8, group_size=16)
    tensors, _, _ = quantizing._layer(plain[f"{LAYER}.weight"], eight)

    def change(stored: dict[str, torch.Tensor]) -> None:
        stored.update({f"{LAYER}.{part}": tensor for part, tensor in tensors.items()})

    folder = changed(
        checkpoints["llama-gptq"],
        tmp_path / "x",
        change,
        lambda c: c.update(dynamic={r".*layers\.1\.mlp\.up": {"bits": 8, "group_size": 16}}),
    )
    layer = quantised_layers(load(folder))[LAYER]
    assert (layer.scheme.bits, layer.scheme.group_size) == (8, 16)
    assert relative(layer.dequantize(), plain[f"{LAYER}.weight"]) < 0.01


def test_config_alone_decides_where_nothing_is_known_of_the_files() -> None:
    model = torch.nn.ModuleDict(
        {name: torch.nn.Linear(32, 32) for name in ("up", "down", "lm_head", "gate")}
    )
    config = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "dynamic": {"-:down": {}, "+:up": {"bits": 8}},
    }
    places = {p.name: p for p in layers.planned(model, config, {}, ["lm_head"])}
    assert {name: place.scheme.bits for name, place in places.items()} == {"up": 8, "gate": 4}


PACKED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}},
}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quant_method": "awq", "version": "gemv"}, "only 'gemm' is served"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "'gptq' and 'gptq_v2'"),
        ({"quant_method": "gptq", "bits": "four"}, "bits must be a number"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "pack-quantized"),
        ({**PACKED, "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
        ({**PACKED, "transform_config": {"config_groups": {"u": {}}}}, "neither .* nor rotated"),
    ],
)
def test_formats_that_are_not_served_are_an_error(config: dict[str, Any], said: str) -> None:
    with pytest.raises(FormatError, match=said):
        layers.scheme_of(config)


@pytest.mark.parametrize("symmetric", [True, False])
def test_compressed_tensors_need_no_package(
    symmetric: bool, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """A GPTQ (symmetric) or AWQ checkpoint said in compressed-tensors is the same model."""
    from accel_kernels.formats import compressed_tensors

    source = checkpoints["llama-gptq" if symmetric else "llama-awq"]
    model = load(source)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, layer in quantised_layers(model).items():
            for part in ("qweight", "qzeros", "scales", "g_idx"):
                tensors.pop(f"{name}.{part}", None)
            told = compressed_tensors.write(layer.weight_values(), asymmetric=not symmetric)
            tensors.update({f"{name}.{key}": tensor for key, tensor in told.items()})

    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "group",
        "group_size": tiny_models.GROUP,
    }
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }

    def configure(found: dict[str, Any]) -> None:
        found.clear()
        found.update(config)

    folder = changed(source, tmp_path / "x", change, configure)
    again = load(folder, torch.bfloat16)
    again.save_pretrained(tmp_path / "y")
    before, after = (load_file(tmp_path / f"{f}/model.safetensors") for f in "xy")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        if ".weight_" in key:
            assert torch.equal(tensor, after[key]), key
    assert torch.equal(logits(load(folder)), logits(model))
