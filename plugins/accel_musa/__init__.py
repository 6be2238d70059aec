"""Moore Threads GPUs, through torch_musa and MUSA.

Presence comes from PCI; names, memory and the driver's version from `mthreads-gmi`, which reads the
driver and makes no context. The capabilities are in `facts.toml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from accel.detecting import Problem, bridge_problem, minor, module_version, same_number, shown
from accel.facts import load_facts
from accel.hookspecs import hookimpl
from accel.machine import Machine, Pci
from accel.value import Value
from accel.values import Device, Impl

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

VENDOR = "moore_threads"
PCI_VENDOR = "1ed5"
PRIORITY = 100
_MIB = 2**20


class Listed(Value, kw_only=False):
    """A row of `mthreads-gmi`; memory in bytes."""

    name: str
    memory: int


@hookimpl
def accel_detect(machine: Machine) -> Iterable[Device]:
    """Cards that MUSA_VISIBLE_DEVICES leaves visible, in torch's order."""
    cards = machine.pci_of(PCI_VENDOR)
    if not cards:
        return []
    overview = machine.command(["mthreads-gmi"]) or ""
    listed, driver = parse_overview(overview)
    driver = driver or module_version(machine, "mtgpu")
    numbers, hidden = shown(machine, "MUSA_VISIBLE_DEVICES", len(cards))
    problem = hidden or _problem(machine, cards)
    devices = []
    for index, number in enumerate(numbers):
        card = cards[number]
        row = listed.get(card.address)
        name, arch = _identity(card, row)
        devices.append(
            Device(
                vendor=VENDOR,
                name=name,
                kind="musa",
                arch=arch,
                index=index,
                family=arch,
                memory=row.memory if row else None,
                driver=driver,
                toolkit=_toolkit(machine),
                pci_address=card.address,
                priority=PRIORITY,
                problem=problem.problem if problem else None,
                remedy=problem.remedy if problem else None,
            )
        )
    return devices


@hookimpl
def accel_capabilities(device: Device) -> Iterable[Impl]:
    """The facts of the device's architecture, or the cautious ones of an unknown card."""
    facts = load_facts(__name__)
    return (facts.arch(device.arch) or facts.archs["other"]).impls


def parse_overview(text: str) -> tuple[dict[str, Listed], str | None]:
    """Rows by PCI address, and the driver's version, from what `mthreads-gmi` prints.

    A row's first line has number, name, address, and memory as `used(total)` in MiB.
    """
    import re

    rows: dict[str, Listed] = {}
    for line in text.splitlines():
        row = re.match(
            r"\s*\d+\s+([^|]+?)\s*\|([0-9A-Fa-f]{4,8}):(\S+)\s*\|.*?\d+MiB\((\d{1,9})MiB\)", line
        )
        if row:
            name, domain, rest, total = row.groups()
            # PCI domains have four digits in sysfs and eight here
            address = f"{int(domain, 16):04x}:{rest.lower()}"
            rows[address] = Listed(name, int(total) * _MIB)
    header = re.search(r"mthreads-gmi:\S+\s+Driver Version:(\S+)", text)
    driver = header.group(1) if header else None
    return rows, None if driver == "N/A" else driver


def _identity(card: Pci, row: Listed | None) -> tuple[str, str]:
    """Name and architecture: by the name the driver gives, else by the PCI id."""
    tables: Mapping[str, Any] = load_facts(__name__).extra
    known = tables["pci"].get(card.device, {})
    name = row.name if row else known.get("name", f"Moore Threads {card.device}")
    arch = tables["names"].get(name) or known.get("arch") or "unknown"
    return str(name), str(arch)


def _toolkit(machine: Machine) -> str | None:
    """The MUSA toolkit's version, from the file in its folder."""
    import re

    home = machine.env("MUSA_HOME") or "/usr/local/musa"
    for file in ("version.json", "version.txt"):
        found = re.search(r"(\d+(?:\.\d+)+)", machine.read(f"{home}/{file}") or "")
        if found:
            return found.group(1)
    return None


def _problem(machine: Machine, cards: tuple[Pci, ...]) -> Problem | None:
    """Why torch cannot use the cards, nearest to the metal first."""
    if not machine.glob("/dev/mtgpu*"):
        if any(card.driver for card in cards):
            return Problem(
                "the driver is loaded, but /dev/mtgpu.* is not in this container",
                "docker run --runtime mthreads --env MTHREADS_VISIBLE_DEVICES=all ...",
            )
        return Problem("Moore Threads' driver is not loaded", "sudo modprobe mtgpu")
    return bridge_problem(
        machine,
        "torch_musa",
        install="pip install torch_musa-{torch}*.whl  # a wheel of Moore Threads' SDK",
        built_for=_built_for,
    )


def _built_for(version: str) -> str | None:
    """torch_musa carries torch's number from 2.7 on; before that its numbers were its own."""
    number = minor(version)
    return same_number(version) if number is not None and number >= (2, 7) else None
