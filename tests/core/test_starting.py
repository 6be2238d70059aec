"""What a start costs is imports, and a collection that was due: what was taken out stays out."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import accel
import accel_cpu
import accel_kernels
from accel.resting import CollectorAtRest

HEAVY = (
    "dataclasses inspect importlib.metadata pluggy logging tomllib packaging email pathlib "
    "difflib json ctypes subprocess torch"
)


def run(code: str) -> str:
    """In an interpreter that has nothing imported but what `site` may have."""
    prelude = "import sys; before = set(sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_finding_devices_imports_nothing_heavy() -> None:
    """Of a recorded machine without any card, so that it is the same wherever it is run."""
    out = run(
        f"""
        import accel
        from accel.pipeline import detect, loaded_plugins
        from accel.machine import ThisMachine
        class Bare(ThisMachine):
            def pci(self): return ()
        assert detect(loaded_plugins(), Bare())
        print(*sorted((set(sys.modules) - before) & set({HEAVY!r}.split())))
        """
    )
    assert out == ""


def test_no_plugin_imports_typing_or_re_to_be_loaded() -> None:
    """Without `site`, which may have imported them for files of its own: editable installs do."""
    homes = {Path(module.__file__ or "").parent.parent for module in (accel, accel_cpu)}
    homes.add(Path(accel_kernels.__file__ or "").parent.parent)
    code = """if True:
        import sys, accel
        assert accel.devices()
        assert {plugin.status for plugin in accel.plugins()} == {"loaded"}
        print(*{"typing", "re", "copy"} & set(sys.modules))
    """
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, homes), *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_finding_a_gpu_needs_no_packaging_either() -> None:
    out = run(
        """
        import accel
        from accel.testing import machine
        here = machine("h100")
        early = set(sys.modules)
        import accel_nvidia
        (found,) = accel_nvidia.hopper.accel_detect(here)
        assert found.usable
        heavy = {"packaging", "packaging.version", "tomllib", "ast", "dataclasses"}
        print(*sorted((set(sys.modules) - early) & heavy))
        """
    )
    assert out == ""


def test_auto_leaves_a_collection_that_is_due_to_the_next() -> None:
    """As many objects as `import torch` makes; then full collections within auto() are counted."""
    out = run(
        """
        import gc
        kept = [[number] for number in range(300_000)]
        gc.collect()
        for _ in range(10):
            kept += [[number] for number in range(10 * gc.get_threshold()[0])]
        seen = []
        full = lambda phase, info: info["generation"] == 2 and seen.append(phase)
        gc.callbacks.append(full)
        import accel
        accel.auto()
        during = len(seen)
        kept += [[number] for number in range(200 * gc.get_threshold()[0])]
        print(during, len(seen) > during, gc.isenabled())
        """
    )
    assert out.endswith("0 True True")


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_left_as_it_was(on: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with pytest.raises(KeyError, match="False"), CollectorAtRest():
            raise KeyError(gc.isenabled())
        assert gc.isenabled() is on
    finally:
        (gc.enable if before else gc.disable)()
