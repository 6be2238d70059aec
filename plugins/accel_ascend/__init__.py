"""Ascend NPUs, through torch_npu and CANN.

Found by PCI id (`19e5`, class 12: the same vendor's network cards and server consoles are not
meant) and by `/dev/davinciN`; named by `npu-smi info`; usable when torch, the torch_npu of that
torch, CANN and the driver are there. No device is opened and no library of CANN is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from accel.detecting import Problem, bridge_problem, shown, torch_problem
from accel.facts import ArchFacts, Facts, load_facts
from accel.hookspecs import hookimpl
from accel.machine import Machine, Pci
from accel.value import Value
from accel.values import Device, Impl

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.troubles import Finding
    from accel_ascend.npu_smi import Chip

OWN = "accel_ascend"
PCI_VENDOR = "19e5"
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
MANAGER = "/dev/davinci_manager"
_HOMES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
_FOLDERS = ("/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit/latest")


class Found(Value, kw_only=False):
    """A chip by its logical id, which is its place among these; `physical` is davinci's number."""

    arch: str
    family: str
    physical: int | None
    bus: str | None
    memory: int | None = None
    health: str = ""


@hookimpl
def accel_detect(machine: Machine) -> Iterable[Device]:
    """Every chip the process may use, in the order torch counts them."""
    cards = tuple(
        card for card in machine.pci() if card.vendor == PCI_VENDOR and card.is_accelerator
    )
    nodes = _nodes(machine)
    if not cards and not nodes:
        return []
    facts = load_facts(OWN)
    found = _chips(machine, cards, nodes, facts)
    logical_ids, hidden = shown(machine, VISIBLE, len(found))
    if hidden is not None:
        from accel_ascend.doctoring import hidden_by_ids

        hidden = hidden_by_ids(machine, nodes) or hidden
    problem = hidden or _problem(machine, cards)
    toolkit, _ = _toolkit(machine)
    driver = _driver(machine)
    return [
        _device(index, logical, found[logical], facts, problem, toolkit, driver)
        for index, logical in enumerate(logical_ids)
    ]


@hookimpl
def accel_capabilities(device: Device, machine: Machine) -> Iterable[Impl]:
    """What the facts say of this chip, or of its family where the chip itself is not known."""
    return _known(load_facts(OWN), device.arch).impls


@hookimpl
def accel_doctor(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """What is wrong around NPUs, and around a torch_npu without any."""
    from accel_ascend.doctoring import examine

    return examine(machine, devices, _nodes(machine))


def architecture(name: str, pci_device: str | None, facts: Facts) -> tuple[str, str]:
    """The vendor's own name of a chip, and its family, from the driver's name and the PCI id.

    `910B2` is Ascend910B2. `910B` alone is the first generation, as `910A` and `910ProB` are; but
    some tools cut the name of an Ascend910B2 short, so the PCI id has the last word. Where the
    driver names no chip, the id gives the architecture that CANN compiles for, `dav-2201`.
    """
    by_id: dict[str, str] = facts.extra["pci"].get(pci_device or "", {})
    full = "".join(name.split())
    if full and not full.startswith("Ascend"):
        full = f"Ascend{full}"
    if full and full not in facts.extra["too_short"]:
        family = _known(facts, full).family
        if not by_id or full not in facts.archs or family == by_id["family"]:
            return full, family
    arch = by_id.get("arch", full or "unknown")
    return arch, by_id.get("family", _known(facts, arch).family)


def _known(facts: Facts, arch: str) -> ArchFacts:
    exact = facts.arch(arch)
    if exact is not None:
        return exact
    rules: dict[str, str] = facts.extra["like"]
    like = next((base for start, base in rules.items() if arch.startswith(start)), "unknown")
    return facts.archs[like]


def _nodes(machine: Machine) -> tuple[int, ...]:
    """The physical ids of the device nodes this process sees."""
    numbers = (path.removeprefix("/dev/davinci") for path in machine.glob("/dev/davinci[0-9]*"))
    return tuple(sorted(int(number) for number in numbers if number.isdecimal()))


def _chips(
    machine: Machine, cards: Sequence[Pci], nodes: Sequence[int], facts: Facts
) -> list[Found]:
    """One for each device node; the driver's tool tells their names, the PCI id their kind.

    Without nodes there is one for each card, so that a missing driver can be told.
    """
    ids = {card.address.lower(): card.device for card in cards}
    from accel_ascend.npu_smi import chips

    listed = chips(machine.command(["npu-smi", "info"]) or "") if nodes else ()
    if listed:
        whole = _whole_name(machine, listed[0])
        return [
            Found(
                *architecture(whole or chip.name, ids.get(chip.bus or ""), facts),
                physical=node,
                bus=chip.bus,
                memory=chip.memory,
                health=chip.health,
            )
            for chip, node in _paired(listed, nodes)
        ]
    physical = nodes or (None,) * len(cards)
    # two chips may share a card, so places are only known where the numbers agree
    places = list(ids) if len(ids) == len(physical) else [None] * len(physical)
    kinds = set(ids.values())
    common = next(iter(kinds)) if len(kinds) == 1 else None
    return [
        Found(*architecture("", ids.get(place or "", common), facts), physical=node, bus=place)
        for node, place in zip(physical, places, strict=True)
    ]


def _paired(listed: Sequence[Chip], nodes: Sequence[int]) -> list[tuple[Chip, int]]:
    """The listed chips that have a node here, each with the number of its node.

    A container is given some of the nodes, while the tool may list more chips than that.
    """
    ours = [chip for chip in listed if chip.physical in nodes]
    if len(ours) != len(nodes):  # the table gives no physical ids, or not those of the nodes
        ours = list(listed[: len(nodes)])
    return list(zip(ours, nodes, strict=False))


def _whole_name(machine: Machine, chip: Chip) -> str:
    """The name of all chips where the table has only "Ascend910" for it; the board has the rest.

    All chips of a server are of one kind, so one question does for all of them.
    """
    if chip.name != "Ascend910":
        return ""
    from accel_ascend.npu_smi import board

    ask = ["npu-smi", "info", "-t", "board", "-i", str(chip.card), "-c", str(chip.number)]
    number = board(machine.command(ask) or "").get("NPU Name", "")
    return f"{chip.name}_{number}" if number else ""


def _device(
    index: int,
    logical: int,
    chip: Found,
    facts: Facts,
    problem: Problem | None,
    toolkit: str | None,
    driver: str | None,
) -> Device:
    known = _known(facts, chip.arch)
    more: dict[str, Any] = {
        "logical_id": logical,
        "physical_id": chip.physical,
        "health": chip.health or None,
        "unified_buffer_kib": known.extra.get("unified_buffer_kib"),
    }
    return Device(
        vendor="ascend",
        name=chip.arch if chip.arch.startswith("Ascend") else f"Ascend NPU ({chip.arch})",
        kind="npu",
        arch=chip.arch,
        index=index,
        family=chip.family,
        memory=chip.memory,
        driver=driver,
        toolkit=toolkit,
        pci_address=chip.bus,
        priority=known.extra.get("device_priority", 100),
        problem=problem.problem if problem else None,
        remedy=problem.remedy if problem else None,
        attributes={name: value for name, value in more.items() if value is not None},
    )


def _driver(machine: Machine) -> str | None:
    """The driver's version, from the file its installer leaves (containers mount it)."""
    return _line(machine.read("/usr/local/Ascend/driver/version.info"), "Version")


def _toolkit(machine: Machine) -> tuple[str | None, str | None]:
    """CANN's version and the folder it was found in; the environment's own choice comes first."""
    arch = machine.platform().arch
    named = [home for name in _HOMES for home in [machine.env(name)] if home]
    for folder in [*named, *_FOLDERS]:
        text = machine.read(f"{folder}/{arch}-linux/ascend_toolkit_install.info")
        version = _line(text, "version")
        if version is not None:
            return version, folder
    return None, named[0] if named else None


def _line(text: str | None, key: str) -> str | None:
    import re

    found = re.search(rf"^{key}=(\S+)", text or "", re.MULTILINE)
    return found.group(1) if found else None


def _problem(machine: Machine, cards: Sequence[Pci]) -> Problem | None:
    """The first thing that stands between torch and the chips, from the driver upwards."""
    install = "pip install 'torch-npu=={torch}.*'"
    return (
        _driver_problem(machine, cards)
        or torch_problem(machine, install="uv pip install torch torch-npu --torch-backend=cpu")
        or bridge_problem(machine, "torch-npu", install=install)
        or _toolkit_problem(machine)
    )


def _driver_problem(machine: Machine, cards: Sequence[Pci]) -> Problem | None:
    if machine.exists(MANAGER):
        return None
    if any(card.driver for card in cards):
        return Problem(
            f"the host's driver has the card, but {MANAGER} is not in this container",
            "docker run --device=/dev/davinci0 --device=/dev/davinci_manager "
            "--device=/dev/devmm_svm --device=/dev/hisi_hdc "
            "-v /usr/local/Ascend/driver:/usr/local/Ascend/driver -v /usr/local/bin/npu-smi:"
            "/usr/local/bin/npu-smi IMAGE",
        )
    return Problem(
        f"the card is on the PCI bus, but its driver is not loaded ({MANAGER} is missing)",
        "bash Ascend-hdk-*-npu-driver_*_linux-$(uname -m).run --full --install-for-all",
    )


def _toolkit_problem(machine: Machine) -> Problem | None:
    """torch_npu links to CANN's libraries: with no way to them, `import torch` itself fails."""
    if any(machine.env(name) for name in _HOMES):
        return None
    version, folder = _toolkit(machine)
    if version is None or folder is None:
        return Problem(
            "CANN is not found: ASCEND_HOME_PATH is not set, and torch_npu cannot load libhccl.so",
            "bash Ascend-cann-toolkit_*_linux-$(uname -m).run --install",
        )
    script = f"{folder.removesuffix('/latest')}/set_env.sh"
    return Problem(
        f"CANN {version} is installed, but its environment is not set (ASCEND_HOME_PATH)",
        f"source {script}",
    )
