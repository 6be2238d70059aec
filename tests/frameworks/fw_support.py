"""What the tests of accel_frameworks share and is no fixture."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skip, with the reason, where a library is not installed. Asks without importing it."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def losses(folder: Path) -> list[float]:
    """The training loss of each step, as the run left it in its output folder."""
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    return [line["loss"] for line in state["log_history"] if "loss" in line]
