"""What `accel lint` finds: a place, what is assumed there, the portable form, and its fate."""

from __future__ import annotations

import dataclasses
import enum


class Fate(str, enum.Enum):
    """What becomes of it at run time, on a device that is not CUDA, under `accel.auto()`."""

    REDIRECTED = "redirected"
    """It means the device that is there."""
    NO_EFFECT = "no effect"
    """It is taken, and changes nothing there."""
    REFUSED = "refused"
    """An error that says why."""
    NOT_REDIRECTED = "not redirected"
    """accel cannot see it: it goes on meaning CUDA."""

    @property
    def harmless(self) -> bool:
        return self in (Fate.REDIRECTED, Fate.NO_EFFECT)


@dataclasses.dataclass(frozen=True, order=True)
class Finding:
    """`line` counts from 1 and `column` too, as editors do."""

    path: str
    line: int
    column: int
    rule: str
    found: str
    portable: str
    fate: Fate


@dataclasses.dataclass(frozen=True, order=True)
class Unread:
    """A file that could not be read, or is no Python."""

    path: str
    reason: str
