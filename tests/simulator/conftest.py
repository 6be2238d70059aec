"""Commands on simulated machines, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sim_support import Ended, environment


@pytest.fixture
def simulate(tmp_path: Path) -> Callable[..., Ended]:
    """`accel simulate MACHINE [OPTIONS] -- COMMAND`; `python` as the command is this one."""

    def run(machine: str, *command: str, fault: str = "", **variables: str) -> Ended:
        options = ["--fault", fault] if fault else []
        return subprocess.run(
            [sys.executable, "-m", "accel", "simulate", *options, machine, "--", *command],
            cwd=tmp_path,
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    return run
