"""The kernels' plugin: what it offers where, what it changes, and that all of it goes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import accel
import fakes
from accel import testing
from accel.errors import CapabilityUnavailable
from accel.facts import load_facts
from accel.machine import ThisMachine
from accel.patching import Journal
from accel.resolving import Capabilities
from accel.values import Device, Feature, Level
from accel_kernels import plugin, probes


def capabilities(arch: str = "x86_64", **machine: Any) -> Capabilities:
    host = fakes.FakeMachine(**machine)
    device = Device(vendor="v", name="Card", kind="cpu", arch=arch)
    return Capabilities(device, plugin.accel_capabilities(device, host), host)


@pytest.mark.parametrize(
    ("arch", "installed", "names"),
    [
        ("x86_64", {}, ["accel_torch"]),
        ("x86_64_avx512_bf16", {}, ["accel_torch_int4", "accel_torch"]),
        ("an_arch_to_come", {}, ["accel_torch"]),
        ("sm_60", {"triton": "3.6.0"}, ["accel_torch"]),
        ("sm_75", {"triton": "3.6.0", "nvidia-cuda-nvrtc": "13.0"}, ["accel_cuda", "accel_torch"]),
        ("sm_90", {"triton": "3.6.0"}, ["accel_triton", "accel_torch"]),
        ("sm_121", {"nvidia-cuda-nvrtc-cu12": "12.8"}, ["accel_cuda", "accel_torch"]),
        ("gfx942", {"pytorch-triton-rocm": "3.4.0"}, ["accel_triton", "accel_torch"]),
        ("Ascend910B2", {"triton-ascend": "3.2.0"}, ["accel_triton", "accel_torch"]),
    ],
)
def test_what_can_be_had_by_architecture_and_packages(
    arch: str, installed: dict[str, str], names: list[str]
) -> None:
    found = capabilities(arch, installed=installed)
    assert [d.name for d in found.of(Feature.QUANT) if d.accepted] == names
    assert plugin.preference(found, "") == tuple(name.removeprefix("accel_") for name in names)


def test_every_implementation_has_a_probe_of_this_package() -> None:
    for facts in load_facts("accel_kernels").archs.values():
        assert any(impl.name == "accel_torch" for impl in facts.impls)
        for impl in facts.impls:
            assert impl.probe is not None
            module, _, name = impl.probe.function.partition(":")
            assert module == "accel_kernels.probes"
            assert callable(getattr(probes, name))
            provider = impl.name.removeprefix("accel_")
            assert impl.probe.arguments == {"provider": provider}


def test_a_provider_asked_for_by_name_is_had_or_is_an_error() -> None:
    found = capabilities("sm_90", installed={"triton": "3.6.0"})
    assert plugin.preference(found, "accel_torch") == ("torch",)
    assert plugin.preference(found, "accel_triton") == ("triton", "torch")
    with pytest.raises(CapabilityUnavailable, match="nvidia-cuda-nvrtc"):
        plugin.preference(found, "accel_cuda")
    with pytest.raises(CapabilityUnavailable, match="did you mean 'accel_triton'"):
        plugin.preference(found, "accel_tritn")


def test_off_changes_nothing_and_says_so() -> None:
    found = capabilities()
    machine = fakes.FakeMachine(variables={"ACCEL_QUANT": "off"})
    assert list(plugin.accel_patches(found, machine)) == []
    assert [note.subject for note in found.notes] == ["ACCEL_QUANT=off"]


def test_a_downgrade_of_layers_is_told_as_one() -> None:
    found = capabilities()
    tell = plugin.told(found)
    tell("awq", {"torch": 14}, ())
    tell("gptq", {"triton": 13, "torch": 1}, ("triton: 3 bits",))
    first, second = found.notes
    assert (first.level, first.message) == (
        Level.INFO,
        "quantised layers are served 14 by accel_torch",
    )
    assert second.level is Level.DOWNGRADE
    assert second.message.endswith("1 by accel_torch, 13 by accel_triton; triton: 3 bits")


def test_planning_for_a_recorded_machine_knows_the_providers() -> None:
    for name in testing.machines():
        plan = accel.plan(machine=name)
        assert "accel_torch" in plan.quant, name
        assert [patch.target for patch in plan.patches if patch.owner == "kernels"]


@pytest.fixture
def tables() -> tuple[dict[str, Any], dict[str, Any]]:
    accel_report = accel.auto("cpu", apply=True)  # some environments cannot import them without
    import peft.tuners.lora.model
    import transformers.modeling_utils
    import transformers.quantizers.auto as auto

    assert peft.tuners.lora.model
    assert transformers.modeling_utils

    accel_report.revert()
    return auto.AUTO_QUANTIZER_MAPPING, auto.AUTO_QUANTIZATION_CONFIG_MAPPING


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_reverting_puts_the_very_same_objects_back(
    tables: tuple[dict[str, Any], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora import dora
    from peft.tuners.lora import model as lora
    from transformers import modeling_utils

    def state() -> list[Any]:
        owned = vars(lora.LoraModel)
        return [
            *(list(table.items()) for table in tables),
            owned["_create_new_module"],
            owned["_check_merge_allowed"],
            dora.dequantize_module_weight,
            modeling_utils._get_resolved_checkpoint_files,
        ]

    before = state()
    journal = Journal()
    patches = plugin.accel_patches(capabilities(), ThisMachine())
    journal.apply(patches, version=ThisMachine().version)
    applied = {entry.patch.target for entry in journal.entries if entry.state == "applied"}
    assert len(applied) >= 6, [(e.patch.target, e.state, e.detail) for e in journal.entries]
    during = state()
    assert all(a != b for a, b in zip(before, during, strict=True))
    assert journal.revert() == ()
    after = state()
    for old, new in zip(before, after, strict=True):
        assert old == new
        if not isinstance(old, list):
            assert old is new
    # The former classes themselves stand in the tables again, in the same order.
    for old, new in zip(before[:2], after[:2], strict=True):
        assert all(a[1] is b[1] for a, b in zip(old, new, strict=True))


def test_the_hooks_import_no_torch() -> None:
    code = """
        import sys, accel
        plan = accel.plan(machine="dgx-spark", probe=False)
        assert [p for p in plan.patches if p.owner == "kernels"]
        heavy = {"torch", "transformers", "peft", "triton"} & set(sys.modules)
        assert not heavy, heavy
    """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_probe_computes_and_refuses() -> None:
    line = probes.quantized_linear("cpu", "torch")
    assert "float32" in line
    assert "bfloat16" in line
    with pytest.raises(probes.Refused, match="provider triton refuses"):
        probes.quantized_linear("cpu", "triton")


def test_the_probe_refuses_wrong_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from accel_kernels.torch_provider import TorchProvider

    right = TorchProvider.backward
    monkeypatch.setattr(
        TorchProvider,
        "backward",
        lambda self, dy, packed, shape: right(self, dy * 1.1, packed, shape),
    )
    with pytest.raises(probes.Refused, match="is wrong"):
        probes.quantized_linear("cpu", "torch")


class TestLlamaFactory:
    """What is demanded of packages, in a stand-in for its two modules."""

    def modules(self) -> Any:
        from accel_kernels.integrations import llamafactory

        demanded: list[str] = []
        check = llamafactory.version_checked(lambda requirement, **k: demanded.append(requirement))

        def original(config: Any) -> None:
            check("autoawq", mandatory=True)
            check("gptqmodel>=2.0.0", mandatory=True)
            check("optimum>=1.24.0", mandatory=True)

        return llamafactory.configured(original), check, demanded

    def test_a_served_checkpoint_needs_no_package(self) -> None:
        configure, check, demanded = self.modules()
        configure(_Config({"quant_method": "awq"}))
        assert demanded == ["optimum>=1.24.0"]
        check("autoawq", mandatory=True)
        assert demanded[1:] == ["autoawq"]

    def test_making_a_checkpoint_still_does(self) -> None:
        configure, _, demanded = self.modules()
        configure(_Config(None))
        configure(_Config({"quant_method": "aqlm"}))
        assert len(demanded) == 6


class _Config:
    def __init__(self, stored: dict[str, str] | None) -> None:
        self.quantization_config = stored


@pytest.mark.slow
@pytest.mark.parametrize("format", ["awq", "gptq"])
def test_llamafactory_trains_a_quantised_model(
    format: str,  # noqa: A002
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    pytest.importorskip("llamafactory")
    folder = checkpoints[f"llama-{format}"]
    _write_tokenizer(tmp_path / "model", folder)
    rows = [{"instruction": "who are you", "input": "", "output": "i am an assistant"}] * 16
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    settings = {
        "model_name_or_path": str(tmp_path / "model"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 4,
        "lora_target": "all",
        "dataset": "rows",
        "dataset_dir": str(tmp_path),
        "template": "empty",
        "cutoff_len": 64,
        "output_dir": str(tmp_path / "adapter"),
        "max_steps": 6,
        "learning_rate": 0.02,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "report_to": "none",
    }
    (tmp_path / "train.yaml").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "accel", "llamafactory", "train", "train.yaml"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "ACCEL_DEVICE": "cpu", "ACCEL_PROBE": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (tmp_path / "adapter/trainer_log.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < losses[0]
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()


def _write_tokenizer(folder: Path, source: Path) -> None:
    import shutil

    from tokenizers import Tokenizer, models, pre_tokenizers

    shutil.copytree(source, folder)
    words = ("<pad>", "<s>", "</s>", "<unk>", "who", "are", "you", "i", "am", "an", "assistant")
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("name", ["torch", "cuda", "triton"])
def test_a_provider_is_there_by_its_name_alone(name: str) -> None:
    if name == "triton":
        pytest.importorskip("triton")
    code = f"from accel_kernels import providers; print(providers.named({name!r}).name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == name
