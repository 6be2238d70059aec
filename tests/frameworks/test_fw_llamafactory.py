"""LLaMA-Factory's requests and flags, one replacement at a time, on invented devices."""

from __future__ import annotations

import enum
import os
import sys
import types

import pytest

from accel.errors import CapabilityUnavailable
from accel.values import Feature, Level
from accel_frameworks import llamafactory, llamafactory_flags

NO_FLASH = {
    (Feature.ATTENTION, "flash_attention_2"): "no such kernel for test_1",
    (Feature.ATTENTION, "flash_attention_3"): "no such kernel for test_1",
}
ALL = ("flash_attention_3", "flash_attention_2", "sdpa", "eager")
NO_BF16 = {(Feature.DTYPE, "bfloat16"): "bfloat16 is emulated here"}


def configured(capabilities, flash_attn, model_type="llama"):
    """What LLaMA-Factory's own function is called with, and what the config has afterwards."""
    seen = []

    def original(config, model_args):
        if model_args.flash_attn == "fa3":
            raise NotImplementedError("Unknown attention type: fa3")
        seen.append(model_args.flash_attn)

    config = types.SimpleNamespace(model_type=model_type, _attn_implementation=None)
    model_args = types.SimpleNamespace(flash_attn=flash_attn)
    llamafactory._configured(original, capabilities)(config, model_args)
    return seen, config._attn_implementation


@pytest.mark.parametrize(
    ("asked", "called_with"),
    [
        ("auto", "auto"),
        ("sdpa", "sdpa"),
        ("disabled", "disabled"),
        ("fa2", "sdpa"),
        ("fa3", "sdpa"),
    ],
)
def test_flash_attn_on_a_device_without_it(capable, asked, called_with):
    capabilities = capable(lacking=NO_FLASH)
    assert configured(capabilities, asked) == ([called_with], None)
    if asked == called_with:
        assert capabilities.notes == ()
    else:
        (note,) = capabilities.notes
        assert (note.level, note.subject) == (Level.DOWNGRADE, f"flash_attn: {asked}")
        assert "no such kernel for test_1" in note.message


def test_flash_attn_on_a_device_with_it(capable):
    capabilities = capable(kind="cuda", attention=ALL)
    assert configured(capabilities, "fa2") == (["fa2"], None)
    assert configured(capabilities, "fa3") == ([], "flash_attention_3")
    assert capabilities.notes == ()


@pytest.mark.parametrize("asked", ["fa2", "fa3"])
def test_strict_refuses(capable, asked):
    with pytest.raises(CapabilityUnavailable, match=f"flash_attn: {asked}"):
        configured(capable(lacking=NO_FLASH, strict=True), asked)


def test_a_model_that_llamafactory_keeps_from_sdpa_gets_eager(capable):
    capabilities = capable(lacking=NO_FLASH)
    assert configured(capabilities, "fa2", "gemma2") == (["disabled"], None)
    (note,) = capabilities.notes
    assert "eager is used for gemma2" in note.message
    with pytest.raises(CapabilityUnavailable):
        configured(capable(lacking=NO_FLASH, strict=True), "fa2", "gemma2")


def test_the_kind_of_flag_is_kept(capable):
    class Flag(str, enum.Enum):
        SDPA = "sdpa"
        FA2 = "fa2"

    seen, _ = configured(capable(lacking=NO_FLASH), Flag.FA2)
    assert seen == [Flag.SDPA]
    assert type(seen[0]) is Flag


@pytest.mark.parametrize(
    ("kind", "dtype", "wanted", "flags"),
    [
        ("cpu", ("float32", "bfloat16"), None, (False, False)),
        ("cpu", ("float32", "bfloat16"), "bfloat16", (True, False)),
        ("cuda", ("bfloat16", "float16"), None, (True, True)),
        ("cuda", ("float16", "float32"), None, (False, True)),
        ("mlu", ("float16", "float32"), None, (False, True)),
        ("cuda", ("float32",), None, (False, False)),
        ("cuda", ("bfloat16", "float16", "float32"), "float32", (False, False)),
        ("cuda", ("bfloat16", "float16", "float32"), "float16", (False, True)),
    ],
)
def test_the_flags_that_are_read_at_import(capable, kind, dtype, wanted, flags):
    chosen = {} if wanted is None else {Feature.DTYPE: wanted}
    capabilities = capable(kind=kind, dtype=dtype, wanted=chosen)
    misc = types.SimpleNamespace(_is_bf16_available="as", _is_fp16_available="before")
    patches = llamafactory.accel_patches(capabilities.device, capabilities)
    (patch,) = [p for p in patches if p.target == "llamafactory.extras.misc"]
    undo = patch.seam(misc)
    assert (misc._is_bf16_available, misc._is_fp16_available) == flags
    undo()
    assert (misc._is_bf16_available, misc._is_fp16_available) == ("as", "before")


@pytest.mark.parametrize(
    ("dtype", "lacking", "left"),
    [
        (("bfloat16", "float16"), {}, {"pure_bf16"}),
        (("float16", "float32"), NO_BF16, {"fp16"}),
        (("float32",), NO_BF16, set()),
    ],
)
def test_pure_bf16(capable, dtype, lacking, left):
    capabilities = capable(kind="npu", dtype=dtype, lacking=lacking)
    training = types.SimpleNamespace(bf16=False, fp16=False, mixed_precision="no", fp8=False)
    finetuning = types.SimpleNamespace(pure_bf16=True)
    parse = llamafactory_flags.parsed(lambda args: (0, 0, training, finetuning, 0), capabilities)
    assert parse(None) == (0, 0, training, finetuning, 0)
    flags = {**vars(training), **vars(finetuning)}
    assert {name for name, value in flags.items() if value is True} == left
    assert training.mixed_precision == ("fp16" if "fp16" in left else "no")
    assert bool(capabilities.notes) == bool(lacking)


def test_pure_bf16_under_strict_and_unasked(capable):
    strict = capable(kind="npu", lacking=NO_BF16, strict=True)
    asked = types.SimpleNamespace(pure_bf16=True)
    with pytest.raises(CapabilityUnavailable, match="pure_bf16: true"):
        llamafactory_flags.parsed(lambda: (0, 0, None, asked, 0), strict)()
    unasked = types.SimpleNamespace(pure_bf16=False)
    llamafactory_flags.parsed(lambda: (0, 0, None, unasked, 0), strict)()
    assert strict.notes == ()


def test_the_ranks_come_to_the_same_choices(capable, monkeypatch):
    for name in [name for name in os.environ if name.startswith("ACCEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ACCEL_DTYPE", "float16")
    before = dict(os.environ)
    capabilities = capable(
        kind="npu",
        strict=True,
        wanted={Feature.DTYPE: "float32", Feature.ATTENTION: "eager"},
    )
    seen = {}
    launch = llamafactory._launched(
        lambda: seen.update(
            {k: v for k, v in os.environ.items() if k.startswith(("ACCEL_", "OPTIM_"))}
        ),
        llamafactory.environment(capabilities),
    )
    launch()
    assert seen == {
        "ACCEL_AUTO": "1",
        "ACCEL_DEVICE": "npu",
        "ACCEL_DTYPE": "float16",
        "ACCEL_ATTENTION": "eager",
        "ACCEL_STRICT": "1",
        "OPTIM_TORCH": "0",
    }, "what the user set in the environment stands"
    assert dict(os.environ) == before


def test_a_failed_launch_leaves_the_environment_as_it_was(capable):
    before = dict(os.environ)

    def fails():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        llamafactory._launched(fails, llamafactory.environment(capable()))()
    assert dict(os.environ) == before


def test_this_environment_s_torchrun_comes_first(monkeypatch, tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir()
        (folder / "torchrun").write_text("#!/bin/sh\n")
        (folder / "torchrun").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(mine / "python"))
    first = llamafactory.own_programs_first
    assert first(str(other)) == f"{mine}{os.pathsep}{other}"
    assert first("") == str(mine)
    assert first(f"{mine}{os.pathsep}{other}") == f"{mine}{os.pathsep}{other}"
    (mine / "torchrun").unlink()
    assert first(str(other)) == str(other)


def test_every_patch_says_why_and_for_what(capable):
    from accel import pipeline
    from accel.machine import ThisMachine

    capabilities = capable(kind="cuda", attention=ALL, dtype=("bfloat16", "float32"))
    answers = pipeline.loaded_plugins().call(
        "accel_patches",
        device=capabilities.device,
        capabilities=capabilities,
        machine=ThisMachine(),
    )
    patches = [patch for answer in answers for patch in answer.value or ()]
    assert len(patches) > 30
    for patch in patches:
        assert patch.reason, patch.target
        assert patch.upstream.startswith("https://"), patch.target
        assert patch.until, patch.target
        loose = patch.target in ("sys", "os:environ")
        assert loose or (patch.distribution and patch.versions), patch.target
        ways = (patch.replace, patch.seam, patch.environ)
        assert sum(way is not None for way in ways) == 1, patch.target
