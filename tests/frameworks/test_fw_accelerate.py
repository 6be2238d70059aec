"""accelerate's own tests say the same without accel, with it, and after revert()."""

from __future__ import annotations

import json
import os
import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accel.caching import default_folder
from accel.creating import new_plugin
from accel.machine import ThisMachine
from accel_frameworks import accelerate as repairs

pytest.importorskip("accelerate")

SCRIPTS = ("test_script", "test_ops", "test_sync")
NOISE = re.compile(r"^(accel: |.*\bW\d{4} |\s*$)|OMP_NUM_THREADS|process_group|warn")


def launched(run: Callable[..., Any], script: str, *before: str, **variables: str) -> list[str]:
    """The lines that two processes on the CPU print, in no particular order."""
    done = run(
        *("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"),
        *("--main_process_port", "0"),
        *(before or ("-m", f"accelerate.test_utils.scripts.{script}")),
        **variables,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return sorted(line for line in done.stdout.splitlines() if not NOISE.search(line))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_accelerates_own_script(script: str, run: Callable[..., Any], tmp_path: Path) -> None:
    without = launched(run, script)
    assert without

    assert launched(run, script, ACCEL_AUTO="1") == without

    reverting = tmp_path / "reverting.py"
    reverting.write_text(
        textwrap.dedent(
            f"""
            import runpy
            import accel
            report = accel.auto()
            import accelerate
            assert report.entries
            report.revert()
            runpy.run_module("accelerate.test_utils.scripts.{script}", run_name="__main__")
            """
        )
    )
    assert launched(run, script, str(reverting)) == without


ASKED = """
import json, os, sys
from accel.values import Device
from accel_frameworks import accelerate as repairs

device = Device(vendor="nobody", name="Test Card", kind="meta", arch="test_1")
named, ranks = repairs._unknown(device)
import accelerate.state

undo = named.seam(accelerate.state)
own = accelerate.state.PartialState._prepare_backend
accelerate.state.PartialState._prepare_backend = ranks.replace(own)
said = str(accelerate.state.PartialState(cpu="cpu" in sys.argv).device)
undo()
print(json.dumps([said, os.environ.get("ACCELERATE_TORCH_DEVICE")]))
"""


@pytest.mark.parametrize(
    ("arguments", "variables", "device"),
    [
        ((), {}, "meta:0"),
        (("cpu",), {}, "cpu"),
        ((), {"ACCELERATE_TORCH_DEVICE": "cpu"}, "cpu"),
    ],
)
def test_a_device_type_without_a_word_for_it_is_used_all_the_same(
    arguments: tuple[str, ...], variables: dict[str, str], device: str, run: Callable[..., Any]
) -> None:
    done = run("-c", ASKED, *arguments, **variables)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [device, variables.get("ACCELERATE_TORCH_DEVICE")]


def test_ranks_on_such_a_device_are_refused(run: Callable[..., Any]) -> None:
    done = run("-c", ASKED, RANK="0", LOCAL_RANK="0", WORLD_SIZE="2")
    assert done.returncode == 1
    assert "accelerate starts no ranks on meta: each would train alone" in done.stderr
    assert "2 ranks on Test Card" in done.stderr
    assert "try:   start one process" in done.stderr


def test_a_device_type_that_accelerate_knows_needs_none_of_it(capable: Callable[..., Any]) -> None:
    for kind, planned in (("npu", 0), ("cpu", 0), ("openreg", 2)):
        capabilities = capable(kind=kind)
        patches = repairs.accel_patches(capabilities.device, capabilities, ThisMachine())
        assert sum("no word for" in patch.reason for patch in patches) == planned


TRAINED = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        ids = torch.arange(8) * (index % 5 + 1) % 32
        return {"input_ids": ids, "labels": ids}


torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=32, num_hidden_layers=2, num_key_value_heads=2, **sizes)
)
arguments = TrainingArguments(
    "out", max_steps=3, per_device_train_batch_size=4, report_to=[], save_strategy="no"
)
loss = Trainer(model=model, args=arguments, train_dataset=Numbers()).train().training_loss
print("TRAINED", next(model.parameters()).device, f"{loss:.4f}")
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="a C++ compiler builds the simulated device")
def test_trainer_trains_on_a_strangers_device(run: Callable[..., Any], tmp_path: Path) -> None:
    """The plugin as it was begun, its device simulated: a torch type that no library has seen."""
    new_plugin("acme", tmp_path / "made", found_by="bridge")
    info = tmp_path / "made" / "accel_acme-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: accel-acme\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[accel]\nacme = accel_acme\n")
    (tmp_path / "train.py").write_text(TRAINED, encoding="utf-8")
    plain = run("train.py", ACCEL_AUTO="1")
    assert plain.returncode == 0, plain.stderr
    variables = {
        "PYTHONPATH": str(tmp_path / "made"),
        "ACCEL_CACHE_DIR": str(default_folder(os.environ.get)),
        "ACCEL_AUTO": "1",
    }
    there = run("-m", "accel", "simulate", "acme-one", "--", "python", "train.py", **variables)
    assert there.returncode == 0, there.stderr

    def said(done: Any) -> list[str]:
        return next(line for line in done.stdout.splitlines() if "TRAINED" in line).split()

    assert said(plain)[1] == "cpu"
    assert said(there)[1] == "acme:0"
    assert float(said(there)[2]) == pytest.approx(float(said(plain)[2]), rel=1e-3)
