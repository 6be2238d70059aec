"""The plugin under test: its entry point, its package, its recorded machines, its rivals."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from accel import pipeline
from accel.errors import InputError, did_you_mean
from accel.loading import Candidate, Plugins, candidates
from accel.machine import Machine
from accel.recording import RecordedMachine, load
from accel.resolving import Capabilities
from accel.testing import machine_files
from accel.values import Device, Impl, Patch


@dataclasses.dataclass(frozen=True)
class Subject:
    """One plugin, by the name of its entry point. Nothing of it is loaded before `alone` is."""

    candidate: Candidate
    others: tuple[Candidate, ...]

    @classmethod
    def find(cls, name: str) -> Subject:
        """Raises InputError, with the names that are near, where no plugin is called so."""
        found = candidates()
        own = [candidate for candidate in found if candidate.name == name]
        if not own:
            names = sorted({candidate.name for candidate in found})
            raise InputError(
                f"no installed plugin is called {name!r}{did_you_mean(name, names)}",
                found=f"{len(names)} plugins of other names",
                remedy="accel plugins",
            )
        return cls(own[0], tuple(other for other in found if other.name != name))

    @property
    def name(self) -> str:
        return self.candidate.name

    @property
    def package(self) -> str:
        """The top-level package that the entry point names."""
        return self.candidate.value.partition(":")[0].partition(".")[0].strip()

    @functools.cached_property
    def folders(self) -> tuple[Path, ...]:
        """Where the package's files are; its code is not run to find out."""
        try:
            spec = importlib.util.find_spec(self.package)
        except (ImportError, ValueError):
            return ()
        return tuple(Path(place) for place in (spec and spec.submodule_search_locations) or ())

    @functools.cached_property
    def alone(self) -> Plugins:
        """This plugin and no other, loaded."""
        return Plugins([self.candidate], refused=())

    @functools.cached_property
    def siblings(self) -> Plugins:
        """Every plugin of the same package, this one too: they share its recorded machines."""
        same = [
            c for c in self.others if c.value.startswith((f"{self.package}:", f"{self.package}."))
        ]
        return Plugins([self.candidate, *same], refused=())

    @functools.cached_property
    def rivals(self) -> Plugins:
        """Every other installed plugin."""
        return Plugins(self.others, refused=())

    @functools.cached_property
    def everyone(self) -> Plugins:
        """Every installed plugin, this one too."""
        return Plugins([self.candidate, *self.others], refused=())

    @functools.cached_property
    def machines(self) -> Mapping[str, RecordedMachine]:
        """Every recorded machine there is, by name."""
        return {name: load(file) for name, file in machine_files().items()}

    @functools.cached_property
    def own_machines(self) -> Mapping[str, RecordedMachine]:
        """Those that the plugin's own package brings."""
        own = {folder / "machines" for folder in self.folders}
        return {
            name: self.machines[name]
            for name, file in machine_files().items()
            if file.parent in own
        }

    @property
    def detects(self) -> bool:
        return self.alone.implements(self.name, "accel_detect")

    def devices(self, machine: Machine) -> tuple[Device, ...]:
        """What this plugin finds on a machine, with nobody to contradict it."""
        return pipeline.detect(self.alone, machine)

    def patches(self, device: Device, machine: Machine) -> list[Patch]:
        """What this plugin would mend for a device of which everyone has said what it can do."""
        impls = pipeline.impls_of(self.everyone, device, machine)
        answers = self.alone.call(
            "accel_patches",
            device=device,
            capabilities=Capabilities(device, impls, machine),
            machine=machine,
        )
        return pipeline.patches_of(self.alone, answers)

    def capabilities(self, device: Device, machine: Machine) -> Capabilities:
        """What this plugin declares for a device, resolved and not probed."""
        return Capabilities(device, self.impls(device, machine), machine)

    def impls(self, device: Device, machine: Machine) -> list[Impl]:
        """What this plugin declares for a device."""
        return pipeline.impls_of(self.alone, device, machine)
