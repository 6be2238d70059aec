"""Flags for training precision become what the device has, or an error under strict."""

from __future__ import annotations

import json
import os
import types
from typing import Any

import pytest

from accel.errors import CapabilityUnavailable
from accel.values import Feature, Level
from accel_frameworks import precision

NO_BF16 = {(Feature.DTYPE, "bfloat16"): "bfloat16 is emulated here"}
NO_FP16 = {(Feature.DTYPE, "float16"): "no loss scaling here"}


def arguments(**flags: bool) -> Any:
    names = ("bf16", "fp16", "bf16_full_eval", "fp16_full_eval", "use_cpu")
    return types.SimpleNamespace(**{name: flags.get(name, False) for name in names})


def set_flags(given: Any) -> set[str]:
    return {name for name, value in vars(given).items() if value}


@pytest.mark.parametrize(
    ("kind", "dtype", "lacking", "asked", "got"),
    [
        ("cuda", ("bfloat16", "float16", "float32"), {}, {"bf16"}, {"bf16"}),
        ("cuda", ("bfloat16", "float16", "float32"), {}, {"fp16"}, {"fp16"}),
        ("cuda", ("float16", "float32"), NO_BF16, {"bf16"}, {"fp16"}),
        ("cuda", ("float32",), NO_BF16, {"bf16"}, set()),
        (
            "npu",
            ("float16", "float32"),
            NO_BF16,
            {"bf16", "bf16_full_eval"},
            {"fp16", "fp16_full_eval"},
        ),
        ("cpu", ("float32", "bfloat16"), NO_FP16, {"fp16"}, set()),
        ("cpu", ("bfloat16", "float32"), NO_FP16, {"fp16"}, {"bf16", "use_cpu"}),
        ("cpu", ("float32", "bfloat16"), NO_FP16, {"bf16"}, {"bf16", "use_cpu"}),
        ("cpu", ("float32", "bfloat16"), NO_FP16, set(), set()),
        ("cuda", ("float16", "float32"), NO_BF16, set(), set()),
    ],
)
def test_flags_are_what_the_device_has(capable, kind, dtype, lacking, asked, got):
    capabilities = capable(kind=kind, dtype=dtype, lacking=lacking)
    given = arguments(**dict.fromkeys(asked, True))
    precision.settle_flags(given, capabilities, "TrainingArguments")
    assert set_flags(given) == got
    assert bool(capabilities.notes) == bool(asked - got), "a change is said, and nothing else is"


def test_the_line_names_who_asked_for_what_and_why(capable):
    capabilities = capable(kind="cuda", dtype=("float16",), lacking=NO_BF16)
    precision.settle_flags(arguments(bf16=True), capabilities, "SFTConfig")
    (note,) = capabilities.notes
    assert note.level is Level.DOWNGRADE
    assert note.subject == "SFTConfig(bf16=True)"
    for word in ("bfloat16", "float16", "Test Card", "bfloat16 is emulated here"):
        assert word in note.message


@pytest.mark.parametrize("flag", ["bf16", "bf16_full_eval"])
def test_strict_refuses(capable, flag):
    capabilities = capable(kind="cuda", dtype=("float16",), lacking=NO_BF16, strict=True)
    given = arguments(**{flag: True})
    with pytest.raises(CapabilityUnavailable, match="bfloat16 is emulated here"):
        precision.settle_flags(given, capabilities, "TrainingArguments")
    assert set_flags(given) == {flag}


def test_both_flags_are_left_for_the_library_to_refuse(capable):
    given = arguments(bf16=True, fp16=True)
    precision.settle_flags(given, capable(kind="cuda", lacking=NO_BF16), "TrainingArguments")
    assert set_flags(given) == {"bf16", "fp16"}


@pytest.mark.parametrize(
    ("wanted", "asked", "got"),
    [
        ("bfloat16", set(), {"bf16"}),
        ("float16", set(), {"fp16"}),
        ("float32", set(), set()),
        ("float32", {"bf16"}, set()),
        ("float16", {"bf16"}, {"fp16"}),
    ],
)
def test_what_the_user_named_in_auto_comes_first(capable, wanted, asked, got):
    capabilities = capable(
        kind="cuda",
        dtype=("bfloat16", "float16", "float32"),
        wanted={Feature.DTYPE: wanted},
    )
    given = arguments(**dict.fromkeys(asked, True))
    precision.settle_flags(given, capabilities, "TrainingArguments")
    assert set_flags(given) == got
    assert all(note.level is Level.INFO for note in capabilities.notes)


def test_a_device_that_declares_no_dtype_is_left_alone(capable):
    given = arguments(bf16=True)
    precision.settle_flags(given, capable(dtype=()), "TrainingArguments")
    assert set_flags(given) == {"bf16"}


def test_a_cpu_that_was_chosen_over_a_visible_accelerator_is_used(capable, monkeypatch):
    monkeypatch.setattr(precision, "_accelerator_in_sight", lambda: True)
    given = arguments()
    precision.settle_flags(given, capable(kind="cpu"), "TrainingArguments")
    assert set_flags(given) == {"use_cpu"}


def test_force_reaches_both_generations_of_training_arguments(monkeypatch):
    monkeypatch.setenv(precision.MIXED_PRECISION, "bf16")
    new = arguments(bf16=True)
    new.mixed_precision = "bf16"
    precision.force(new, "float16")
    assert (new.fp16, new.bf16, new.mixed_precision) == (True, False, "fp16")
    assert os.environ[precision.MIXED_PRECISION] == "bf16"
    old = arguments(bf16=True)
    precision.force(old, "float32")
    assert (old.fp16, old.bf16, os.environ[precision.MIXED_PRECISION]) == (False, False, "no")


@pytest.mark.parametrize(("kind", "loaded"), [("cuda", "float32"), ("cpu", "bfloat16")])
def test_a_model_is_loaded_in_what_the_device_has(capable, tiny_model, tmp_path, kind, loaded):
    import shutil

    import torch

    from accel.machine import ThisMachine
    from accel.patching import Journal
    from accel_frameworks import transformers as repairs

    folder = tmp_path / "bf16"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["torch_dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    capabilities = capable(kind=kind, dtype=("float32",), lacking=NO_BF16)
    journal = Journal()
    journal.apply(
        repairs.accel_patches(capabilities.device, capabilities), version=ThisMachine().version
    )
    try:
        from transformers import AutoModelForCausalLM, PretrainedConfig

        word = "dtype" if hasattr(PretrainedConfig, "dtype") else "torch_dtype"
        model = AutoModelForCausalLM.from_pretrained(folder, **{word: "auto"})
        assert {str(p.dtype) for p in model.parameters()} == {f"torch.{loaded}"}
        assert str(getattr(model.config, word)) == f"torch.{loaded}"
        assert torch.get_default_dtype() is torch.float32
        said = [note.message for note in capabilities.notes if "a model in" in note.subject]
        assert bool(said) == (kind != "cpu")
    finally:
        journal.revert()
