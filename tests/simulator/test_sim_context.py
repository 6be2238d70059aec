"""`accel.testing.simulated`, in processes of their own: torch keeps what it has been told."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from sim_support import environment, needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow]


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_simulation_begins_and_ends_and_another_may_follow() -> None:
    out = python(
        """
        import os
        import accel, torch
        from accel import testing
        from accel.errors import AccelError, InputError

        def state():
            cuda = torch.cuda
            return dict(os.environ), cuda.is_available(), cuda.Stream, torch.version.cuda

        before = state()
        for name, count in (("tesla-p4", 2), ("hygon-k100ai", 8)):
            with testing.simulated(name, count=count) as machine:
                assert machine.simulated
                assert torch.cuda.is_available() and torch.cuda.device_count() == count
                x = torch.ones(3, device="cuda")
                assert torch.cuda.get_device_name(0) == accel.devices()[0].name
                plan = accel.plan(probe=False)
                assert plan.simulated and plan.device.kind == "cuda"
                try:
                    with testing.simulated("t4"):
                        raise AssertionError
                except AccelError as error:
                    assert "in force" in str(error)
            assert state() == before
            assert accel.devices()[0].kind == "cpu"
        with testing.simulated("ascend-910b2") as machine:
            assert torch.npu.device_count() == 1
            assert torch.ones(2, device="npu").sum().item() == 2
        assert not hasattr(torch, "npu")
        try:
            with testing.simulated("mlu590"):
                raise AssertionError
        except AccelError as error:
            assert "a process of its own" in str(error)
        try:
            with testing.simulated("ascend-910x"):
                raise AssertionError
        except InputError as error:
            assert "ascend-910" in str(error)
        print("DONE")
        """
    )
    assert "DONE" in out


def test_children_see_what_their_parent_sees() -> None:
    out = python(
        """
        import subprocess, sys
        from accel import testing

        with testing.simulated("ascend-910b2", count=2):
            subprocess.run([sys.executable, "-c", '''
        import importlib.util
        assert importlib.util.find_spec("torch_npu")
        import torch, torch_npu
        print(torch.npu.device_count(), torch_npu.__version__, torch.npu.get_device_name())
        ''' .replace("        ", "")], check=True)
        """
    )
    assert "2 2.9.0 Ascend910B2" in out


def test_an_import_of_torch_goes_on_whatever_is_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.ones(1).item())"],
        env=environment(ACCEL_SIMULATE="no-such-card"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "1.0"
    assert "no-such-card is NOT simulated: InputError" in done.stderr
