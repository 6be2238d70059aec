"""AMD GPUs through ROCm, and Hygon DCUs through DTK: two vendors, one programming interface.

Both call their architectures gfxNNN and both are `cuda` to torch, but AMD's gfx906 and Hygon's are
different machines with different software. The PCI vendor tells them apart, never the gfx number,
and each has its own facts file. An architecture is a name: gfx1150 is no version 11.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from accel.detecting import Problem, module_version, visible
from accel.facts import ArchFacts, Facts, load_facts
from accel.hookspecs import hookimpl
from accel.machine import Machine, Pci
from accel.value import Value, replaced
from accel.values import Device, Feature, Impl
from accel_rocm import kfd

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any, Literal

OWN = "accel_rocm"
_CLASSES = ("03", "12", "0b40")  # display, processing accelerator, co-processor: all are in use
OVERRIDE = "HSA_OVERRIDE_GFX_VERSION"
"""Makes HIP take a card for another of its family, which is how unsupported ones are used."""
ROCR, HIP, CUDA = "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"
_TRITONS = ("triton", "triton-rocm", "pytorch-triton-rocm")


class Brand(Value, kw_only=False):
    """A vendor of such cards: where its driver and toolkit say what they are."""

    name: str
    pci_vendor: str
    resource: str
    modules: tuple[str, ...]
    toolkits: tuple[str, ...]

    @property
    def facts(self) -> Facts:
        return load_facts(OWN, self.resource)


AMD = Brand("amd", "1002", "amd.toml", ("amdgpu",), ("/opt/rocm/.info/version",))
HYGON = Brand(
    "hygon",
    "1d94",
    "hygon.toml",
    ("hycu", "hydcu"),
    ("/opt/dtk/.info/version", "/opt/dtk/.info/version-dev"),
)
BRANDS = {brand.name: brand for brand in (AMD, HYGON)}


class Card(Value, kw_only=False):
    """A card of one brand, from its KFD node, its PCI function, or both."""

    address: str | None
    arch: str
    name: str
    memory_model: Literal["discrete", "unified"]
    memory: int | None = None
    compute_units: int | None = None
    unique_id: int = 0


@hookimpl
def accel_detect(machine: Machine) -> Iterable[Device]:
    """Every card the process may use, in HIP's order; each vendor is counted from 0."""
    nodes = kfd.gpus(machine)
    return [device for brand in BRANDS.values() for device in _devices(machine, brand, nodes)]


@hookimpl
def accel_capabilities(device: Device, machine: Machine) -> Iterable[Impl]:
    """What the vendor's own facts say of this architecture, on this machine's settings."""
    brand = BRANDS[device.vendor]
    facts = _known(brand.facts, device.arch)
    return [_here(impl, facts.extra, machine) for impl in facts.impls]


def _devices(machine: Machine, brand: Brand, nodes: Sequence[kfd.Node]) -> Iterable[Device]:
    cards = _cards(machine, brand, nodes)
    if not cards:
        return
    from accel_rocm.usable import problem_of

    facts = brand.facts
    numbers, hidden = _shown(machine, cards, facts)
    problem = hidden or problem_of(brand.name, machine)
    driver = module_version(machine, *brand.modules)
    toolkit = _toolkit(machine, brand)
    for index, number in enumerate(numbers):
        card = cards[number]
        if not _offered(card, facts, machine):
            continue
        known = _known(facts, card.arch)
        yield Device(
            vendor=brand.name,
            name=card.name,
            kind="cuda",
            arch=card.arch,
            index=index,
            family=known.family,
            memory=card.memory,
            memory_model=card.memory_model,
            driver=driver,
            toolkit=toolkit,
            pci_address=card.address,
            priority=known.extra.get("device_priority", 100),
            problem=problem.problem if problem else None,
            remedy=problem.remedy if problem else None,
            attributes=_attributes(card, number, known.extra),
        )


def _cards(machine: Machine, brand: Brand, nodes: Sequence[kfd.Node]) -> list[Card]:
    """The brand's cards: by KFD node where the driver runs, else by what is on the PCI bus."""
    functions = {card.address.lower(): card for card in machine.pci()}
    ours = [node for node in nodes if _vendor_of(node, functions) == brand.pci_vendor]
    if ours:
        return [_card(machine, brand, node, functions.get(node.address)) for node in ours]
    return [_card(machine, brand, None, pci) for pci in functions.values() if _computes(pci, brand)]


def _vendor_of(node: kfd.Node, functions: Mapping[str, Pci]) -> str:
    """A node's PCI vendor: the PCI function's own word before the driver's."""
    pci = functions.get(node.address)
    return pci.vendor if pci is not None else node.vendor


def _computes(pci: Pci, brand: Brand) -> bool:
    """Whether a PCI function that no driver lists is a card of `brand` that torch could use.

    The same vendors' bridges, sound and chipset functions are not, nor is the display part of a
    processor: of display functions only those whose ids are known to compute count.
    """
    if pci.vendor != brand.pci_vendor or not pci.class_id.startswith(_CLASSES):
        return False
    return pci.device in brand.facts.extra["pci"] or not pci.is_display


def _card(machine: Machine, brand: Brand, node: kfd.Node | None, pci: Pci | None) -> Card:
    """A card from its KFD node, its PCI function, or both."""
    by_id = _by_id(brand.facts, pci)
    address = node.address if node is not None else pci.address if pci is not None else None
    arch = (node.arch if node is not None else None) or by_id.get("arch", "unknown")
    known = _known(brand.facts, arch).extra
    card = Card(
        address=address,
        arch=arch,
        name=_name(machine, address, by_id, brand, arch),
        memory_model="unified"
        if "unified" in {known.get("memory_model"), by_id.get("memory_model")}
        else "discrete",
    )
    if node is None:
        return card
    return replaced(
        card, memory=node.memory, compute_units=node.compute_units, unique_id=node.unique_id
    )


def _by_id(facts: Facts, pci: Pci | None) -> Mapping[str, str]:
    table: Mapping[str, Mapping[str, str]] = facts.extra["pci"]
    return table.get(pci.device, {}) if pci is not None else {}


def _name(
    machine: Machine, address: str | None, by_id: Mapping[str, str], brand: Brand, arch: str
) -> str:
    """What the board says of itself, else what its PCI id stands for, else its architecture."""
    own = (machine.read(f"/sys/bus/pci/devices/{address}/product_name") or "").strip()
    return own or by_id.get("name", "") or f"{brand.facts.extra['brand']} {arch}"


def _offered(card: Card, facts: Facts, machine: Machine) -> bool:
    """Whether torch computes on a card: HIP also counts some on which no build of it does."""
    return card.arch not in facts.extra["display_only"] or bool(machine.env(OVERRIDE))


def _shown(
    machine: Machine, cards: Sequence[Card], facts: Facts
) -> tuple[tuple[int, ...], Problem | None]:
    """`_visible`, and why no card is left that torch computes on, where there are some.

    Then all are given: without a word the machine would fall to the host processor.
    """
    seen = _visible(machine, cards)
    offered = {number for number, card in enumerate(cards) if _offered(card, facts, machine)}
    if not offered or offered & set(seen):
        return seen, None
    chosen = HIP if machine.env(HIP) is not None else CUDA
    named = {name: machine.env(name) for name in (ROCR, chosen)}
    said = {name: value for name, value in named.items() if value is not None}
    by = " and ".join(f"{name}={value!r}" for name, value in said.items())
    hidden = Problem(f"hidden by {by}: no card is left to torch", f"unset {' '.join(said)}")
    return tuple(range(len(cards))), hidden


def _visible(machine: Machine, cards: Sequence[Card]) -> tuple[int, ...]:
    """Places in `cards` that HIP counts, in its order.

    The runtime below HIP filters first, by ROCR_VISIBLE_DEVICES; HIP then chooses among what is
    left, by HIP_VISIBLE_DEVICES or, without that, by CUDA_VISIBLE_DEVICES.
    """
    names = [f"GPU-{card.unique_id:016x}" if card.unique_id else "" for card in cards]
    left = visible(machine.env(ROCR), len(cards), names)
    chosen = machine.env(HIP)
    if chosen is None:
        chosen = machine.env(CUDA)
    return tuple(left[place] for place in visible(chosen, len(left), [names[i] for i in left]))


def _attributes(card: Card, number: int, extra: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        "physical_id": number,
        "compute_units": card.compute_units,
        "wavefront": extra.get("wavefront"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _toolkit(machine: Machine, brand: Brand) -> str | None:
    """The first version stated; of Hygon's, `26.04` and the like, without what follows."""
    for path in brand.toolkits:
        words = (machine.read(path) or "").split()
        if words:
            return words[0]
    return None


def _known(facts: Facts, arch: str) -> ArchFacts:
    return facts.arch(arch) or facts.archs["unknown"]


def _here(impl: Impl, extra: Mapping[str, Any], machine: Machine) -> Impl:
    """An implementation as this machine's settings and packages have it."""
    impl = _under_its_own_name(impl, machine)
    gate: Mapping[str, Any] = extra.get("gate", {})
    if impl.feature is Feature.OP and impl.name in gate.get("ops", ()):
        variable = gate["variable"]
        if machine.env(variable) != "1":
            reason = f"{gate['reason']}: set {variable}=1 to try it"
            return replaced(impl, unavailable=reason)
    return impl


def _under_its_own_name(impl: Impl, machine: Machine) -> Impl:
    """Triton comes as `triton`, or under the names that PyTorch's ROCm builds give it."""
    if not any(text.startswith("triton") for text in impl.requires):
        return impl
    name = next((name for name in _TRITONS if machine.version(name) is not None), "triton")
    requires = tuple(
        name + text.removeprefix("triton") if text.startswith("triton") else text
        for text in impl.requires
    )
    return replaced(impl, requires=requires)
