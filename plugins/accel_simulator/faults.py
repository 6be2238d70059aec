"""Faults on demand: `lost:10`, `memory:3`, `timeout:1`, `driver=slow`, `driver=nonsense`."""

from __future__ import annotations

import dataclasses
import re

from accel.errors import InputError

VARIABLE = "ACCEL_SIMULATE_FAULT"
DRIVERS = ("slow", "nonsense")
COUNTED = {
    "lost": "the device is lost at the N-th operator from here",
    "memory": "the N-th allocation from here fails as if it did not fit",
    "timeout": "the N-th collective from here times out",
}
SLOW_SECONDS = 30.0
"""How long a slow driver takes to answer: longer than a hook may."""


@dataclasses.dataclass(frozen=True)
class Faults:
    """What goes wrong. Counts are of events before the fault; `driver` is in DRIVERS or None."""

    counts: tuple[tuple[str, int], ...] = ()
    driver: str | None = None

    @property
    def text(self) -> str:
        parts = [f"{name}:{count + 1}" for name, count in self.counts]
        return ",".join([*parts, *([f"driver={self.driver}"] if self.driver else [])])


def parse(text: str | None) -> Faults:
    """A list of faults with commas between. Raises InputError that names what can be asked for."""
    counts: list[tuple[str, int]] = []
    driver: str | None = None
    for part in (piece.strip() for piece in (text or "").split(",")):
        if not part:
            continue
        counted = re.fullmatch(r"([a-z]+)(?::([1-9][0-9]{0,17}))?", part)
        if counted and counted[1] in COUNTED:
            counts.append((counted[1], int(counted[2] or 1) - 1))
        elif part.removeprefix("driver=") in DRIVERS and part.startswith("driver="):
            driver = part.removeprefix("driver=")
        else:
            raise InputError(
                f"{part!r} is no fault that can be simulated",
                found=f"{VARIABLE}={text}",
                remedy=", ".join([*(f"{name}:N" for name in COUNTED), *_drivers()]),
            )
    return Faults(tuple(counts), driver)


def _drivers() -> list[str]:
    return [f"driver={name}" for name in DRIVERS]
