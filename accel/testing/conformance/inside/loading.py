"""Inside, for load.*: one plugin is loaded in an interpreter that has nothing else in it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from accel.loading import Candidate, Plugins, candidates

HEAVY = ("torch", "numpy", "scipy", "pandas", "tensorflow", "jax")
"""What takes long to import, or opens a device; torch's bridges import torch themselves."""

_STARTED = time.perf_counter


def candidate(name: str, distribution: str) -> Candidate:
    """The plugin's entry point."""
    return next(c for c in candidates() if (c.name, c.distribution) == (name, distribution))


def load(name: str, distribution: str) -> Iterator[dict[str, Any]]:
    """What became of loading it."""
    plugins = Plugins([candidate(name, distribution)], refused=())
    (info,) = plugins.infos
    specified = [hook for hook in _hooks() if plugins.implements(name, hook)]
    yield {"status": info.status, "problem": info.problem, "hooks": specified}


def _hooks() -> list[str]:
    from accel import hookspecs

    return [hook for hook in vars(hookspecs) if hook.startswith("accel_")]


def weigh(name: str, distribution: str) -> Iterator[dict[str, Any]]:
    """What loading, then detection, leaves in the process."""
    plugins = Plugins([candidate(name, distribution)], refused=())
    yield {"case": "loading", **_left()}
    from accel import pipeline
    from accel.machine import ThisMachine

    pipeline.detect(plugins, ThisMachine())
    yield {"case": "detecting", **_left()}


def _left() -> dict[str, Any]:
    threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    return {"heavy": [name for name in HEAVY if name in sys.modules], "threads": threads}


def clock(name: str, distribution: str) -> Iterator[dict[str, Any]]:
    """Milliseconds of loading an empty module, and the plugin, through their entry points."""
    import importlib.metadata

    plugin = candidate(name, distribution)
    empty = importlib.metadata.EntryPoint(
        "empty", "accel.testing.conformance.inside.empty", "accel"
    )
    begin = _STARTED()
    empty.load()
    middle = _STARTED()
    plugin.load()
    yield {"empty_ms": (middle - begin) * 1000, "plugin_ms": (_STARTED() - middle) * 1000}
