"""The few declarations that depend on the machine and not only on the architecture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from accel.machine import Machine
from accel.value import replaced
from accel.values import Device, Feature, Impl
from accel_nvidia.knowledge import ptxas_variable, traits_of


def adjusted(impls: Iterable[Impl], device: Device, machine: Machine) -> Iterator[Impl]:
    """The declarations of an architecture as they stand on this machine."""
    windows = machine.platform().system == "Windows"
    own_ptxas = _own_ptxas(machine)
    bundled_from = traits_of(device.arch).get("triton_ptxas_from")
    for impl in impls:
        if impl.feature is Feature.COLLECTIVE and impl.name == "nccl" and windows:
            yield replaced(impl, unavailable="NCCL is not built for Windows")
        elif own_ptxas and bundled_from and f"triton>={bundled_from}" in impl.requires:
            yield _with_own_ptxas(impl, own_ptxas, bundled_from)
        else:
            yield impl


def _own_ptxas(machine: Machine) -> str | None:
    """How the user gave the installed Triton another ptxas for Blackwell, as `NAME=path`."""
    triton = machine.version("triton")
    if triton is None:
        return None
    name = ptxas_variable(triton)
    path = machine.env(name)
    return f"{name}={path}" if path else None


def _with_own_ptxas(impl: Impl, setting: str, bundled_from: str) -> Impl:
    """What waits only for a newer ptxas: the one that the user names may do; its probe decides."""
    requires = tuple(
        "triton>=3.3" if text == f"triton>={bundled_from}" else text for text in impl.requires
    )
    return replaced(
        impl,
        requires=requires,
        because="older Triton does not know Blackwell",
        note=f"with the ptxas of {setting}",
    )
