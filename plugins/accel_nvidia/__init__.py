"""NVIDIA GPUs, one plugin a family: pascal, volta, turing, ampere, ada, hopper, blackwell.

What an architecture is stands in `archs.toml`, what it can do in `facts.toml`, which torch runs on
it in `wheels.toml`. Each family is an entry point of its own, so that one can be replaced or
refused alone. All but `evidence` is imported only where there is something to find.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from accel.hookspecs import hookimpl
from accel.machine import Machine
from accel.values import Device, Impl, Patch
from accel_nvidia.evidence import present

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from accel.troubles import Finding


class Family:
    """A plugin for the architectures of one family, and for unknown ones that fall to it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<accel_nvidia family {self.name}>"

    @hookimpl
    def accel_detect(self, machine: Machine) -> Iterable[Device]:
        """GPUs of this family."""
        if not present(machine):
            return ()
        from accel_nvidia.detecting import detect

        return detect(machine, self.name)

    @hookimpl
    def accel_capabilities(self, device: Device, machine: Machine) -> Iterable[Impl]:
        """What the facts declare of the device's architecture, as far as the machine allows."""
        if device.vendor != "nvidia":
            return ()
        from accel_nvidia.adjusting import adjusted
        from accel_nvidia.knowledge import family_of, impls_of

        if family_of(device.arch) != self.name:
            return ()
        return adjusted(impls_of(device.arch), device, machine)

    @hookimpl
    def accel_doctor(self, machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
        """What is wrong around this family's GPUs."""
        own = [device for device in devices if device.owner == self.name]
        if not own:
            return ()
        from accel_nvidia.doctoring import examine

        return examine(machine, own)

    @hookimpl
    def accel_patches(self, device: Device, machine: Machine) -> Iterable[Patch]:
        """What Triton needs for an architecture that is younger than it is."""
        if device.vendor != "nvidia":
            return ()
        from accel_nvidia.assembling import patches
        from accel_nvidia.knowledge import family_of

        return patches(device, machine) if family_of(device.arch) == self.name else ()


pascal = Family("pascal")
volta = Family("volta")
turing = Family("turing")
ampere = Family("ampere")
ada = Family("ada")
hopper = Family("hopper")
blackwell = Family("blackwell")
