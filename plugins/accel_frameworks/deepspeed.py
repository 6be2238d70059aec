"""deepspeed."""

from __future__ import annotations

from collections.abc import Iterable

from accel import hookimpl
from accel.resolving import Capabilities
from accel.values import Patch


@hookimpl
def accel_patches(capabilities: Capabilities) -> Iterable[Patch]:
    """None yet."""
    return []
