"""accel: one first line, and a training script trains on whatever accelerator is there.

    import accel; accel.auto()

Importing accel imports no torch, touches no device and changes nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.errors import AccelError
    from accel.hookspecs import hookimpl
    from accel.pipeline import auto, current, devices, plan, plugins
    from accel.planning import Plan
    from accel.report import Report
    from accel.troubles import Finding
    from accel.values import Device, Feature, Impl, Patch, Probe

__version__ = "0.1.0"

_HOME = {
    "AccelError": "accel.errors",
    "Device": "accel.values",
    "Feature": "accel.values",
    "Finding": "accel.troubles",
    "Impl": "accel.values",
    "Patch": "accel.values",
    "Plan": "accel.planning",
    "Probe": "accel.values",
    "Report": "accel.report",
    "auto": "accel.pipeline",
    "current": "accel.pipeline",
    "devices": "accel.pipeline",
    "hookimpl": "accel.hookspecs",
    "plan": "accel.pipeline",
    "plugins": "accel.pipeline",
}

__all__ = [
    "AccelError",
    "Device",
    "Feature",
    "Finding",
    "Impl",
    "Patch",
    "Plan",
    "Probe",
    "Report",
    "auto",
    "current",
    "devices",
    "hookimpl",
    "plan",
    "plugins",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'accel' has no attribute {name!r}")
    from accel.resting import CollectorAtRest

    with CollectorAtRest():
        value = getattr(__import__(home, fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
