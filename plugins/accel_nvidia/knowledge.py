"""The plugin's data files, and the one place that says who answers for which architecture."""

from __future__ import annotations

from collections.abc import Mapping

from accel.detecting import minor
from accel.facts import Facts, load_facts
from accel.machine import Pci
from accel.values import Impl

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

PACKAGE = "accel_nvidia"
UNKNOWN = "unknown"
PTXAS_BLACKWELL_FROM = (3, 6)


def facts() -> Facts:
    """What each architecture can do: its implementations. The largest of the files."""
    return load_facts(PACKAGE)


def archs() -> Facts:
    """What each architecture is: family, features, memory, the CUDA that makes code for it."""
    return load_facts(PACKAGE, "archs.toml")


def wheels() -> Facts:
    """What the builds of torch carry and need."""
    return load_facts(PACKAGE, "wheels.toml")


def cards() -> Facts:
    """Device ids of PCI cards and chips of Jetson boards."""
    return load_facts(PACKAGE, "cards.toml")


def arch_of(compute_capability: str) -> str:
    """`sm_90` for `9.0`."""
    return "sm_" + compute_capability.replace(".", "")


def is_known(arch: str) -> bool:
    """Whether the facts name the architecture itself."""
    return arch.startswith("sm_") and archs().arch(arch) is not None


def traits_of(arch: str) -> Mapping[str, Any]:
    """The keys of an architecture in archs.toml; of an unknown one, those of its stand-in."""
    return archs().archs[_entry(arch)].extra


def impls_of(arch: str) -> tuple[Impl, ...]:
    """What can be had on an architecture, by the facts.

    An unknown architecture is never a reason to fall to the CPU: it gets what torch offers on any
    CUDA device, all of it left to probes.
    """
    return facts().archs[_entry(arch)].impls


def family_of(arch: str) -> str:
    """The family whose plugin answers for an architecture, known or not: exactly one."""
    return archs().archs[arch].family if is_known(arch) else _by_major(arch)["family"]


def _entry(arch: str) -> str:
    return arch if is_known(arch) else _by_major(arch)["facts"]


def _by_major(arch: str) -> dict[str, str]:
    majors: dict[str, dict[str, str]] = archs().extra["majors"]
    # The last digit is the minor number: sm_121 is 12.1.
    return majors.get(arch.removeprefix("sm_")[:-1], majors["other"])


def ptxas_variable(triton: str) -> str:
    """The variable that names another ptxas for Blackwell to a Triton of this version.

    From 3.6 on Triton brings an assembler of its own for Blackwell, with a variable of its own.
    """
    number = minor(triton)
    newer = number is not None and number >= PTXAS_BLACKWELL_FROM
    return "TRITON_PTXAS_BLACKWELL_PATH" if newer else "TRITON_PTXAS_PATH"


def card_arch(card: Pci) -> str:
    """The architecture of a PCI card by the block its device id is in, or `unknown`."""
    for first, last, _, arch in cards().extra["blocks"]["pci"]:
        if first <= card.device <= last:
            return str(arch)
    return UNKNOWN


def card_name(card: Pci) -> str:
    """A card's name by its device id: the product, else the chip, else the bare ids."""
    name = cards().extra["names"].get(card.device)
    if name is not None:
        return f"NVIDIA {name}"
    for first, last, chip, _ in cards().extra["blocks"]["pci"]:
        if first <= card.device <= last:
            return f"NVIDIA {chip} ({card.vendor}:{card.device})"
    return f"NVIDIA graphics card ({card.vendor}:{card.device})"
