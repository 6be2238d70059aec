"""Cambricon MLUs, through torch_mlu and Neuware.

Presence comes from PCI, names and the driver's version from the driver's own /proc files, memory
from `cnmon`; the capabilities are in `facts.toml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from accel.detecting import Problem, bridge_problem, named_in_local, shown
from accel.facts import load_facts
from accel.hookspecs import hookimpl
from accel.machine import Machine, Pci
from accel.value import Value, replaced
from accel.values import Device, Feature, Impl, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.troubles import Finding

VENDOR = "cambricon"
PCI_VENDOR = "cabc"
PRIORITY = 100
NEUWARE = "/usr/local/neuware"
_PROC = "/proc/driver/cambricon/mlus"
_MIB = 2**20


class Card(Value, kw_only=False):
    """An MLU that this process may open: its PCI function, and what the driver says of it."""

    pci: Pci
    node: str
    """Device node, or the empty string where there is none."""
    name: str
    driver: str | None


@hookimpl
def accel_detect(machine: Machine) -> Iterable[Device]:
    """MLUs that MLU_VISIBLE_DEVICES leaves visible, in torch's order."""
    cards = _cards(machine)
    if not cards:
        return []
    numbers, hidden = shown(machine, "MLU_VISIBLE_DEVICES", len(cards))
    problem = hidden or _problem(machine, cards)
    memory = parse_cnmon(machine.command(["cnmon"]) or "")
    return [
        Device(
            vendor=VENDOR,
            name=card.name or arch.upper(),
            kind="mlu",
            arch=arch,
            index=index,
            family=arch,
            memory=memory.get(card.pci.address),
            driver=card.driver,
            toolkit=_toolkit(machine),
            pci_address=card.pci.address,
            priority=PRIORITY,
            problem=problem.problem if problem else None,
            remedy=problem.remedy if problem else None,
            attributes={"node": card.node} if card.node else {},
        )
        for index, card in enumerate(cards[number] for number in numbers)
        for arch in (_arch(card),)
    ]


@hookimpl
def accel_capabilities(device: Device, machine: Machine) -> Iterable[Impl]:
    """The facts of the device's architecture, or the cautious ones of an unknown MLU."""
    facts = load_facts(__name__)
    table = facts.arch(device.arch) or facts.archs["other"]
    return [_with_vendors_triton(impl, machine) for impl in table.impls]


@hookimpl
def accel_patches(device: Device, machine: Machine) -> Iterable[Patch]:
    """Availability checks that create no context, so that forked workers still work."""
    if device.vendor != VENDOR:
        return []
    return [
        Patch(
            target="os:environ",
            reason="torch.mlu.is_available() must not initialise the device in a parent process",
            environ={"PYTORCH_CNDEV_BASED_MLU_CHECK": "1"},
            distribution="torch-mlu",
            upstream="https://github.com/Cambricon/torch_mlu",
            until="torch_mlu checks through CNDev by default",
        )
    ]


@hookimpl
def accel_doctor(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """Upstream's triton, where an MLU needs Cambricon's."""
    version = machine.version("triton")
    here = any(device.vendor == VENDOR for device in devices)
    if not here or version is None or "mlu" in version:
        return []
    from accel.troubles import load_troubles

    return [
        load_troubles(__name__)["cambricon-triton-replaced"].found(
            f"triton {version}",
            "is not Cambricon's, whose version ends in +mlu",
            "pip install --force-reinstall --no-deps triton-*+mlu*.whl  # of Cambricon's SDK",
        )
    ]


def _cards(machine: Machine) -> list[Card]:
    """MLUs in the driver's order. In a container, only those whose device node was passed in."""
    nodes = frozenset(machine.glob("/dev/cambricon_dev[0-9]*"))
    cards = []
    for number, pci in enumerate(machine.pci_of(PCI_VENDOR)):
        text = machine.read(f"{_PROC}/{pci.address}/information") or ""
        info = parse_information(text)
        expected = info.get("Device inode path") or f"/dev/cambricon_dev{number}"
        if nodes and expected not in nodes:
            continue
        driver = info.get("Driver Version", "").removeprefix("v") or None
        node = expected if expected in nodes else ""
        cards.append(Card(pci, node, info.get("Device name", ""), driver))
    return sorted(cards, key=lambda card: _node_number(card.node))


def _node_number(node: str) -> int:
    import re

    digits = re.search(r"(\d+)$", node)
    return int(digits.group(1)) if digits else 0


def parse_information(text: str) -> dict[str, str]:
    """The `key: value` lines of the driver's `information` file."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, sign, value in pairs if sign}


def parse_cnmon(text: str) -> dict[str, int]:
    """Memory in bytes by PCI address, from the table that `cnmon` prints: two lines a card."""
    import re

    found: dict[str, int] = {}
    address = None
    for line in text.splitlines():
        card = re.match(r"\|\s*\d+\s.*\|\s*([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:\S+)\s*\|", line)
        if card:
            address = card.group(1).lower()
            continue
        memory = re.search(r"\d+ MiB/\s*(\d{1,9}) MiB", line)
        if memory and address is not None:
            found[address] = int(memory.group(1)) * _MIB
            address = None
    return found


def _arch(card: Card) -> str:
    """The architecture by the card's name, else by its PCI id: `mlu590` for an MLU590-M9."""
    import re

    named = re.match(r"mlu-?(\d{3})", card.name, re.IGNORECASE)
    if named:
        return f"mlu{named.group(1)}"
    table: Mapping[str, Any] = load_facts(__name__).extra["pci"]
    return str(table.get(card.pci.device, {}).get("arch", "mlu"))


def _toolkit(machine: Machine) -> str | None:
    """Neuware's version, from the file that its installer leaves."""
    import re

    home = machine.env("NEUWARE_HOME") or NEUWARE
    found = re.search(r"(\d+(?:\.\d+)+)", machine.read(f"{home}/version.txt") or "")
    return found.group(1) if found else None


def _problem(machine: Machine, cards: list[Card]) -> Problem | None:
    """Why torch cannot use the cards, nearest to the metal first."""
    if not any(card.node for card in cards):
        if any(card.pci.driver for card in cards):
            return Problem(
                "the driver is loaded, but /dev/cambricon_dev* is not in this container",
                "docker run --device /dev/cambricon_ctl --device /dev/cambricon_dev0 ...",
            )
        return Problem("Cambricon's driver is not loaded", "sudo modprobe cambricon_drv")
    bridge = bridge_problem(
        machine,
        "torch_mlu",
        install="pip install torch_mlu-*+torch{torch}-*.whl  # a wheel of Cambricon's SDK",
        built_for=named_in_local,
    )
    return bridge or _without_neuware(machine)


def _without_neuware(machine: Machine) -> Problem | None:
    """torch_mlu loads CNRT, CNNL and CNCL from Neuware, found in one of three ways."""
    home = machine.env("NEUWARE_HOME")
    on_path = "neuware" in (machine.env("LD_LIBRARY_PATH") or "")
    if on_path or machine.exists(home or NEUWARE):
        return None
    found = f"NEUWARE_HOME is {home}, which is not there" if home else "NEUWARE_HOME is not set"
    return Problem(f"{found}: torch_mlu cannot load Neuware", f"export NEUWARE_HOME={NEUWARE}")


def _with_vendors_triton(impl: Impl, machine: Machine) -> Impl:
    """Upstream's triton installs under the same name and has no code for an MLU."""
    version = machine.version("triton")
    if (impl.feature, impl.name) != (Feature.OP, "triton") or version is None or "mlu" in version:
        return impl
    return replaced(impl, unavailable=f"triton {version} is not Cambricon's (+mlu)")
