"""accelerate's own tests say the same without accel, with it, and after revert()."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
