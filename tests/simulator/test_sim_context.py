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


def test_a_simulation_after_the_first_backward_is_refused_unless_autograd_serves_as_many() -> None:
    out = python(
        """
        import time
        import torch
        from accel import testing
        from accel.errors import AccelError

        def gradient(device):
            x = torch.ones(2, device=device, requires_grad=True)
            (x * 2).sum().backward()
            return x.grad.sum().item()

        with testing.simulated("tesla-p4", count=2):
            assert gradient("cpu") == 4  # the first one, while there are two devices
        with testing.simulated("hygon-k100ai", count=2):
            assert gradient("cuda:1") == 4
        try:
            with testing.simulated("tesla-p4", count=3):
                raise AssertionError
        except AccelError as error:
            assert "autograd saw 2 devices" in str(error), error
            assert "accel simulate tesla-p4-x4:3 -- COMMAND" in str(error)
        with testing.simulated("ascend-910b2", count=1):
            assert gradient("npu") == 4
        print("DONE")
        time.sleep(0.2)  # an end while a thread of autograd's still begins is an abort, of torch's
        """
    )
    assert "DONE" in out
    alone = python(
        """
        import torch
        from accel import testing
        from accel.errors import AccelError

        torch.ones(2, requires_grad=True).sum().backward()
        try:
            with testing.simulated("tesla-p4"):
                raise AssertionError
        except AccelError as error:
            print("autograd saw 0 devices" in str(error))
        assert not torch.cuda.is_available()
        """
    )
    assert alone.strip() == "True"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("t4", "intel-arc-b60"),
        ("intel-arc-b60", "t4"),
        ("ascend-910b2", "t4"),
        ("ascend-910b2", "intel-arc-b60"),
    ],
)
def test_torch_types_that_torch_cannot_have_both_are_refused(first: str, second: str) -> None:
    out = python(
        f"""
        import torch
        from accel import testing
        from accel.errors import AccelError

        for name in ({first!r}, {first!r}):
            with testing.simulated(name) as machine:
                kind = torch.accelerator.current_accelerator().type
                x = torch.ones(2, device=kind, requires_grad=True)
                (x * 2).sum().backward()
        try:
            with testing.simulated({second!r}):
                raise AssertionError
        except AccelError as error:
            assert "torch cannot have both" in str(error)
            print("a process of its own" in str(error))
        """
    )
    assert out.strip() == "True"


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
