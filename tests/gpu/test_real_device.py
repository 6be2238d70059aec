"""What only a real accelerator can show. Skipped where there is none: `pytest tests/gpu -rs`."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import accel
from accel.machine import ThisMachine
from accel.values import Device, Feature, Impl, Probe, Stage

pytestmark = pytest.mark.gpu

HERE = Path(__file__).parent
ACCELERATORS = [d for d in accel.devices() if d.kind != "cpu" and d.usable]
if not ACCELERATORS:
    pytest.skip("no usable accelerator on this machine", allow_module_level=True)


@pytest.fixture
def device() -> Device:
    return ACCELERATORS[0]


def in_a_new_interpreter(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])},
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_detection_leaves_no_context_and_a_forked_child_can_use_the_device(device: Device) -> None:
    out = in_a_new_interpreter(
        f"""
        import os, sys
        import accel
        found = [d for d in accel.devices() if d.kind != "cpu"]
        assert found and "torch" not in sys.modules
        opened = [os.readlink(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd")
                  if os.path.islink(f"/proc/self/fd/{{fd}}")]
        nodes = [name for name in opened if name.startswith("/dev/") and "nvidia" in name]
        assert not nodes, nodes
        import torch
        assert not torch.{device.kind}.is_initialized()
        if os.fork() == 0:
            ok = float(torch.ones(3, device="{device.torch_name}").sum()) == 3.0
            os._exit(0 if ok else 1)
        _, status = os.wait()
        assert os.waitstatus_to_exitcode(status) == 0
        print(len(found))
        """
    )
    assert int(out) == len(ACCELERATORS)


def test_planning_and_auto_open_no_context_in_this_process(device: Device, tmp_path: Path) -> None:
    in_a_new_interpreter(
        f"""
        import os
        os.environ["ACCEL_CACHE_DIR"] = {str(tmp_path / "cache")!r}
        import torch, accel
        report = accel.auto()
        assert report.device.kind == "{device.kind}", report
        assert not torch.{device.kind}.is_initialized()
        if os.fork() == 0:
            ok = float(torch.ones(3, device=report.torch_device).sum()) == 3.0
            os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        """
    )


def test_every_accepted_decision_was_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCEL_CACHE_DIR", str(tmp_path / "cache"))
    plan = accel.plan(probe=True)
    accepted = [d for d in plan.decisions if d.accepted]
    assert {d.feature for d in accepted} >= {Feature.ATTENTION, Feature.DTYPE, Feature.COLLECTIVE}
    unproven = [d.name for d in accepted if d.stage is not Stage.PROBED]
    assert unproven == []
    refused = [d for d in plan.decisions if not d.accepted]
    assert all(d.reason for d in refused)
    again = accel.plan(probe=True)
    assert [(d.name, d.accepted) for d in again.decisions] == [
        (d.name, d.accepted) for d in plan.decisions
    ]


@pytest.mark.parametrize("context_first", [False, True])
def test_a_probe_that_crashes_hangs_or_poisons_is_a_rejection_and_no_more(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context_first: bool
) -> None:
    import torch

    from accel.probing import Prober
    from accel.resolving import Capabilities

    monkeypatch.syspath_prepend(str(HERE))
    if context_first:
        torch.ones(1, device=device.torch_name)
    impls = [
        Impl(
            feature=Feature.OP,
            name=name,
            probe=Probe(function=f"broken_probes:{name}", seconds=8.0),
        )
        for name in ("crash", "poison", "hang", "leave", "good")
    ]
    machine = ThisMachine()
    capabilities = Capabilities(
        device, impls, machine, prober=Prober(device, machine, cache_dir=tmp_path / "cache")
    )
    capabilities.prove_all()

    verdicts = {d.name: d for d in capabilities.decisions}
    assert [name for name, d in verdicts.items() if d.accepted] == ["good"]
    assert "SIGSEGV" in verdicts["crash"].reason
    assert "8 s" in verdicts["hang"].reason
    assert all(d.stage is Stage.PROBED for d in verdicts.values())
    assert float(torch.ones(5, device=device.torch_name).sum()) == 5.0


def test_a_small_model_trains_in_the_dtype_and_attention_that_were_chosen(
    device: Device, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    out = in_a_new_interpreter(
        f"""
        import os
        os.environ["ACCEL_CACHE_DIR"] = {str(tmp_path / "cache")!r}
        import accel
        report = accel.auto()
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import LlamaConfig, LlamaForCausalLM
        torch.manual_seed(0)
        config = LlamaConfig(hidden_size=256, intermediate_size=512, num_hidden_layers=2,
                             num_attention_heads=4, num_key_value_heads=2, vocab_size=512)
        config._attn_implementation = report.attention
        model = LlamaForCausalLM(config).to(report.torch_device, report.dtype)
        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        tokens = torch.randint(0, 512, (4, 64), device=report.torch_device)
        losses = []
        for _ in range(20):
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward(); optimizer.step(); optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < losses[0] - 0.1, losses
        assert next(model.parameters()).device.type == "{device.kind}"
        print(report.dtype, report.attention)
        """
    )
    assert out.split()[0] in {"torch.bfloat16", "torch.float16", "torch.float32"}
