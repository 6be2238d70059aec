"""The conformance suite: what any plugin, ours or a stranger's, has to keep.

    accel conformance NAME
    pytest --accel-plugin=NAME

    from accel.testing.conformance import run
    outcome = run("acme")
    assert outcome.ok, outcome

Rules that need the device run where it is, real or simulated; elsewhere they are skipped, and the
result says so. What is expected to fail stands in `conformance.toml` beside the plugin.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accel.testing.conformance.results import Conformance, Finding, Result
    from accel.testing.conformance.rules import RULES, Rule
    from accel.testing.conformance.suite import Suite, run

_HOME = {
    "RULES": "rules",
    "Conformance": "results",
    "Finding": "results",
    "Result": "results",
    "Rule": "rules",
    "Suite": "suite",
    "run": "suite",
}

__all__ = ["RULES", "Conformance", "Finding", "Result", "Rule", "Suite", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
