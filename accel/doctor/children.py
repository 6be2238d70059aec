"""What only a child process can tell: whether something can be imported, and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from accel.machine import Machine
from accel.value import Value

SECONDS = 120.0
"""Time limit of one child: torch from a cold network disk takes a minute."""


class Child(Value, kw_only=False):
    """How a child process ended: the last line it wrote on stderr, and all of its stdout."""

    ok: bool
    last: str
    out: str = ""


def run_python(source: str, environment: Mapping[str, str]) -> Child:
    """Run Python source in a child of this interpreter, without accel's own patches, in time."""
    env = {key: value for key, value in os.environ.items() if key != "ACCEL_AUTO"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", source],
            env={**env, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Child(False, f"did not end within {SECONDS:.0f} s")
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    out = done.stdout.decode(errors="replace").strip()
    if done.returncode < 0:
        return Child(False, f"killed by signal {-done.returncode}", out)
    return Child(done.returncode == 0, lines[-1].strip() if lines else "", out)


def import_error(machine: Machine, module: str) -> str | None:
    """The last line of the error that importing a module ends with; None where it does not fail.

    Asked through the machine, so that a recorded one answers as it was recorded; of one that was
    not asked, nothing is claimed.
    """

    def ask() -> str:
        child = run_python(f"import {module}", {})
        return "" if child.ok else child.last or "the interpreter ended"

    answer = machine.query(f"import {module}", ask)
    return str(answer.value) if answer.ok and answer.value else None


def asked_of_python(machine: Machine, name: str, source: str) -> object:
    """What `source` prints as JSON in a child; None where it fails or a recording was not asked."""

    def ask() -> object:
        child = run_python(source, {})
        return json.loads(child.out.splitlines()[-1]) if child.ok and child.out else None

    answer = machine.query(name, ask)
    return answer.value if answer.ok else None


def has_module(machine: Machine, module: str) -> bool:
    """Whether a top-level module can be found; none of its code is run."""

    def ask() -> bool:
        import importlib.util

        return importlib.util.find_spec(module) is not None

    answer = machine.query(f"module {module}", ask)
    return bool(answer.ok and answer.value)
