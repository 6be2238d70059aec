"""Versions that are known to break together: the rows of combinations.toml."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from accel import toml
from accel.facts import package_data
from accel.machine import Machine
from accel.troubles import Finding, load_troubles
from accel.values import Device
from accel.versions import requirement, within

OWN, FILE = "accel_frameworks", "combinations.toml"


@functools.cache
def rows() -> tuple[Mapping[str, Any], ...]:
    """The combinations, in the order in which they are looked for."""
    text = (package_data(OWN, FILE) or b"").decode("utf-8")
    return tuple(toml.loads(text)["combination"])


def known(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """Every row of which all of `when` holds, none of `unless`, and the device is concerned."""
    kinds = {device.kind for device in devices if device.usable}
    for row in rows():
        if "device" in row and not kinds & set(row["device"]):
            continue
        met = [_met(text, machine) for text in row["when"]]
        if None in met or any(_met(text, machine) for text in row.get("unless", ())):
            continue
        yield load_troubles(OWN)[row["trouble"]].found(
            " with ".join(filter(None, met[:2])), "are known not to work together", row["command"]
        )


def _met(text: str, machine: Machine) -> str | None:
    """`name version` where the requirement is met. Raises ValueError for what is none."""
    parsed = requirement(text)
    if parsed is None:
        raise ValueError(f"{OWN}/{FILE}: {text!r} is more than a name and a range")
    version = machine.version(parsed[0])
    if version is None or not within(version, parsed[1]):
        return None
    return f"{parsed[0]} {version}"
