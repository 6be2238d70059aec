"""`accel quantize`: rounding, what is left out, whole folders or none, messages for people."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tiny_models
from accel.errors import InputError
from accel_kernels import checkpoint, quantizing
from accel_kernels.quantizing import Recipe

pytestmark = [
    pytest.mark.usefixtures("served"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@settings(deadline=None, max_examples=40)
@given(
    recipe=st.one_of(
        st.builds(Recipe, st.just("awq"), st.just(4), st.sampled_from([8, 16, 32, -1])),
        st.builds(
            Recipe, st.just("gptq"), st.sampled_from([2, 3, 4, 8]), st.sampled_from([16, 32, -1])
        ),
    ),
    spread=st.sampled_from([1e-6, 1e-3, 1.0, 100.0]),
    shift=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 99),
)
def test_no_weight_moves_further_than_half_a_step(
    recipe: Recipe, spread: float, shift: float, seed: int
) -> None:
    torch.manual_seed(seed)
    weight = (torch.randn(32, 96) + shift) * spread
    rounded = quantizing.round_to_nearest(weight, recipe)
    step = rounded.scales.float()[rounded.group_of()].t()
    error = (rounded.dequantize().t() - weight).abs()
    # The scale is rounded to float16 and a zero to a whole number: a little more than a half.
    assert bool((error <= step * (1.02 if recipe.format == "awq" else 0.6)).all())
    if recipe.format == "gptq":
        assert rounded.zeros().unique().tolist() == [1 << (recipe.bits - 1)]


def test_a_group_of_zeros_stays_zero_and_extremes_stay_finite() -> None:
    weight = torch.zeros(32, 64)
    weight[:, 32:] = 1e30
    for format in ("awq", "gptq"):  # noqa: A001
        rounded = quantizing.round_to_nearest(weight, Recipe(format, group_size=32)).dequantize()  # type: ignore[arg-type]
        assert bool((rounded[:32] == 0).all())
        assert bool(rounded.isfinite().all())


def test_rounding_in_bands_is_rounding_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(160, 64)
    for format in ("awq", "gptq"):  # noqa: A001
        recipe = Recipe(format, group_size=32)  # type: ignore[arg-type]
        whole, _, _ = quantizing._layer(weight, recipe)
        monkeypatch.setattr(quantizing, "BAND_ELEMENTS", 64 * 32)
        bands, _, _ = quantizing._layer(weight, recipe)
        monkeypatch.undo()
        assert all(torch.equal(whole[key], bands[key]) for key in whole)


@pytest.mark.parametrize("format", ["awq", "gptq"])
def test_the_folder_is_a_whole_model(format: str, checkpoints: dict[str, Path]) -> None:  # noqa: A002
    source, folder = checkpoints["qwen2"], checkpoints[f"qwen2-{format}"]
    before = load_file(source / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    for key, tensor in before.items():
        if "proj.weight" not in key:
            assert torch.equal(after[key], tensor), key
        else:
            assert key not in after
            assert f"{key.removesuffix('weight')}qweight" in after
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert (config["bits"], config["group_size"]) == (4, tiny_models.GROUP)
    if format == "gptq":
        assert json.loads((folder / "quantize_config.json").read_text()) == config
        # v1 holds one less than the zero, which is 8.
        assert after["model.layers.0.mlp.up_proj.qzeros"].unique().tolist() == [0x77777777]
    assert (folder / "generation_config.json").is_file()
    assert not [path for path in folder.parent.iterdir() if path.name.endswith(".part")]


def test_many_shards_in_and_out(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = load_file(checkpoints["llama"] / "model.safetensors")
    source = tmp_path / "source"
    shutil.copytree(checkpoints["llama"], source)
    (source / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in files.items():
        save_file({name: tensors[name] for name in own}, source / file)
    index = {"weight_map": {name: file for file, own in files.items() for name in own}}
    (source / checkpoint.INDEX).write_text(json.dumps(index))

    monkeypatch.setattr(quantizing, "SHARD_BYTES", 30_000)
    heard: list[int] = []
    recipe = Recipe("gptq", group_size=tiny_models.GROUP)
    made = quantizing.plan(source, recipe)
    result = quantizing.write(made, tmp_path / "out", lambda done, of, name: heard.append(done))
    assert heard == list(range(1, 7 * tiny_models.LAYERS + 1))
    shards = checkpoint.shards_of(tmp_path / "out")
    assert len(shards) > 2
    found = {key: tensor for shard in shards for key, tensor in load_file(shard).items()}
    whole = load_file(checkpoints["llama-gptq"] / "model.safetensors")
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[key], whole[key]) for key in whole)
    assert result.bytes_after < result.bytes_before
    assert 0.05 < result.error < 0.2


def test_layers_that_do_not_fit_are_left_and_named(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """The width of 96 of `down_proj` is no multiple of 64; the other layers' width is."""
    made = quantizing.plan(checkpoints["llama"], Recipe("awq", group_size=64))
    assert {name.rpartition(".")[2] for name in made.left_out} == {"down_proj"}
    assert set(made.left_out.values()) == {"96 input features are no multiple of 64"}
    quantizing.write(made, tmp_path / "out")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model.model.layers[0].mlp.down_proj) is torch.nn.Linear
    config = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert "model.layers.0.mlp.down_proj" in config["modules_to_not_convert"]
    fitted = quantizing.plan(checkpoints["llama"], Recipe("awq"), fit=True)
    assert (fitted.recipe.group_size, fitted.left_out) == (32, {})


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe("awq", bits=8), "awq has 4 bits"),
        (Recipe("gptq", bits=5), "gptq has 2 or 3 or 4 or 8 bits"),
        (Recipe("gguf"), "'gguf' is no format to write"),  # type: ignore[arg-type]
        (Recipe("awq", group_size=0), "multiple of 8 input features"),
        (Recipe("awq", group_size=256), "no layer of .* can be quantised so"),
    ],
)
def test_recipes_that_cannot_be(recipe: Recipe, said: str, checkpoints: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=said):
        quantizing.plan(checkpoints["llama"], recipe)


def test_models_that_cannot_be(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    recipe = Recipe("awq", group_size=tiny_models.GROUP)
    with pytest.raises(InputError, match="no such folder"):
        quantizing.plan(tmp_path / "nowhere", recipe)
    with pytest.raises(InputError, match="quantised already"):
        quantizing.plan(checkpoints["llama-awq"], recipe)
    shutil.copytree(checkpoints["llama"], tmp_path / "bin")
    (tmp_path / "bin/model.safetensors").rename(tmp_path / "bin/pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin"):
        quantizing.plan(tmp_path / "bin", recipe)
    shutil.copytree(checkpoints["llama"], tmp_path / "cut")
    os.truncate(tmp_path / "cut/model.safetensors", 20_000)
    with pytest.raises(InputError, match="it was cut off"):
        quantizing.plan(tmp_path / "cut", recipe)


def test_an_output_is_whole_or_not_there(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = quantizing.plan(checkpoints["llama"], Recipe("awq", group_size=tiny_models.GROUP))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/something").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        quantizing.write(made, tmp_path / "full")

    def broken(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(quantizing, "_write_others", broken)
    with pytest.raises(KeyboardInterrupt):
        quantizing.write(made, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        quantizing.write(made, tmp_path / "file" / "out")


@pytest.mark.parametrize("text", [None, "", "[]", "{", "\0"])
def test_no_model_is_an_error_with_a_command(text: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if text is None:
        folder.write_text("a file")
    else:
        folder.mkdir()
        (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json[\s\S]*  try:   accel quantize FOLDER"):
        quantizing.plan(folder, Recipe("awq", group_size=tiny_models.GROUP))


def test_the_command(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "accel", "quantize", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            check=False,
            timeout=200,
        )

    done = run(str(checkpoints["llama"]), "--format", "gptq", "--output", "out", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["layers"], found["group_size"], found["left_out"]) == (14, 32, {})
    assert (tmp_path / "out/model.safetensors").is_file()

    done = run("nobody/nothing", "--output", "other")
    assert done.returncode != 0
    assert "no model of that name could be fetched" in done.stderr
    assert "Traceback" not in done.stderr
