"""Commands on simulated machines, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
Ended = subprocess.CompletedProcess[str]

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))),
    reason="a C++ compiler builds the simulated device, and there is none",
)


def environment(**variables: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCEL_", "RANK"))}
    # the build is kept where a user's is: it depends on nothing a test changes
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **variables}


def outcomes(ended: Ended) -> dict[str, str]:
    """What device_checks.py printed of each check."""
    lines = [line.split(" ", 2) for line in ended.stdout.splitlines() if line.startswith("CHECK ")]
    assert lines, ended.stdout + ended.stderr
    return {name: verdict for _, name, verdict in lines}
