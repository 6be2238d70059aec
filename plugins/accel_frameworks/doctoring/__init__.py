"""`accel doctor` on torch's surroundings and on the libraries that people train with.

surroundings   /dev/shm, a vendor's torch, packages that fight over torch
builds         compiled packages against the torch that is here
combinations   versions that are known to break together, from combinations.toml
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from accel.hookspecs import hookimpl

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from accel.machine import Machine
    from accel.troubles import Finding
    from accel.values import Device


@hookimpl
def accel_doctor(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """On every machine: what counts is what is installed."""
    from accel_frameworks.doctoring import builds, combinations, surroundings

    rules = (*surroundings.RULES, *builds.RULES, combinations.known)
    return [finding for rule in rules for finding in rule(machine, devices)]
