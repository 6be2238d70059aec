"""What a rule is given: the plugin, the device if it is here, and a way to say how far it is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from accel import pipeline
from accel.machine import Machine
from accel.resolving import Capabilities
from accel.testing.conformance.results import How
from accel.testing.conformance.subject import Subject
from accel.values import Decision, Device, Feature


@dataclasses.dataclass(frozen=True)
class Place:
    """A device on a machine, and that machine's name."""

    name: str
    machine: Machine
    device: Device

    @property
    def label(self) -> str:
        return f"{self.name}/{self.device.arch}"


@dataclasses.dataclass(frozen=True)
class Context:
    """`here` is the machine of this process, `device` the plugin's device on it or None."""

    subject: Subject
    here: Machine
    device: Device | None
    how: How
    tell: Callable[[str], None] = lambda line: None

    @property
    def entry(self) -> dict[str, str]:
        """How a fresh interpreter finds the plugin again."""
        candidate = self.subject.candidate
        return {"name": candidate.name, "distribution": candidate.distribution}

    @functools.cached_property
    def capabilities(self) -> Capabilities:
        """What is declared for the device that is here."""
        assert self.device is not None
        return self.subject.capabilities(self.device, self.here)

    def accepted(self, feature: Feature) -> list[Decision]:
        """What the device that is here has of a feature, by what is declared and installed."""
        return [decision for decision in self.capabilities.of(feature) if decision.accepted]

    @functools.cached_property
    def places(self) -> tuple[Place, ...]:
        """One for each sort of device that the plugin has something to say of.

        Its own devices on its own recorded machines and here; for a plugin that detects nothing,
        everyone's devices everywhere.
        """
        subject = self.subject
        seen: dict[tuple[Any, ...], Place] = {}
        machines = subject.own_machines if subject.detects else subject.machines
        for name, machine in machines.items():
            for device in self._found(machine):
                seen.setdefault(
                    (device.vendor, device.arch, device.problem), Place(name, machine, device)
                )
        if self.device is not None:
            seen.setdefault(
                (self.device.vendor, self.device.arch, None), Place("here", self.here, self.device)
            )
        return tuple(seen.values())

    def _found(self, machine: Machine) -> tuple[Device, ...]:
        if self.subject.detects:
            return self.subject.devices(machine)
        return pipeline.detect(self.subject.rivals, machine)

    def decisions(self) -> Iterator[tuple[Place, Decision]]:
        """Everything the plugin declares, wherever it has something to say."""
        for place in self.places:
            for decision in self.subject.capabilities(place.device, place.machine).decisions:
                yield place, decision
