"""Results that are computed once for a run of the tests, however many workers it has."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of this run."""
    base = factory.getbasetemp()
    # a worker's own folder is inside that of the run
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "accel-failures"
    folder.mkdir(exist_ok=True)
    return folder


def once(path: Path, compute: Callable[[], Any]) -> Any:
    """What `compute` returned to whoever came first; others wait for it. Plain JSON."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            path.write_text(json.dumps(compute()), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))
