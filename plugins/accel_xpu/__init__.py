"""Intel GPUs, through torch's own XPU build.

Presence, name and architecture come from the PCI id: the vendor's id is on half the chips of a
machine, so only those in `facts.toml` count. Memory is read from sysfs, where the driver says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from accel.detecting import Problem, torch_build, torch_problem, visible
from accel.facts import load_facts
from accel.hookspecs import hookimpl
from accel.machine import Machine, Pci
from accel.value import Value, replaced
from accel.values import Device, Feature, Impl

VENDOR = "intel"
PCI_VENDOR = "8086"
DRIVERS = ("i915", "xe")
DISCRETE, INTEGRATED = 100, 30
"""Priorities: an integrated GPU comes before the host processor and after every real card."""
NEEDS_TORCH = ">=2.5"
INSTALL = "uv pip install --reinstall torch --torch-backend=xpu"


class Gpu(Value, kw_only=False):
    """A GPU as torch will count it: a card, or one tile of a card."""

    pci: Pci
    name: str
    arch: str
    tile: int | None
    integrated: bool
    memory: int | None


@hookimpl
def accel_detect(machine: Machine) -> Iterable[Device]:
    """GPUs that ZE_AFFINITY_MASK leaves visible, in torch's order.

    Beside a discrete GPU integrated ones are left out, as torch does when it counts its devices.
    """
    gpus = [gpu for pci in machine.pci_of(PCI_VENDOR) for gpu in _gpus(machine, pci)]
    gpus = [gpu for gpu in gpus if not gpu.integrated] or gpus
    mask = machine.env("ZE_AFFINITY_MASK")
    numbers = _shown(mask, gpus)
    if numbers:
        return [_device(machine, gpus[n], index, None) for index, n in enumerate(numbers)]
    hidden = Problem(
        f"hidden by ZE_AFFINITY_MASK={mask!r}, which names no device that is here",
        "unset ZE_AFFINITY_MASK",
    )
    return [_device(machine, gpu, index, hidden) for index, gpu in enumerate(gpus)]


@hookimpl
def accel_capabilities(device: Device, machine: Machine) -> Iterable[Impl]:
    """The facts of the device's architecture; every architecture that is detected has some."""
    return [_with_intels_triton(i, machine) for i in load_facts(__name__).archs[device.arch].impls]


def _gpus(machine: Machine, pci: Pci) -> list[Gpu]:
    """What one PCI function is to torch: nothing, one device, or a device for each tile."""
    known = load_facts(__name__).extra["pci"].get(pci.device)
    if known is None or not pci.is_display:
        return []
    integrated = bool(known.get("integrated", False))
    whole = machine.memory().total if integrated else _memory(machine, pci)
    tiles = int(known.get("tiles", 1))
    composite = (machine.env("ZE_FLAT_DEVICE_HIERARCHY") or "").upper() == "COMPOSITE"
    if tiles == 1 or composite:
        return [Gpu(pci, known["name"], known["arch"], None, integrated, whole)]
    share = None if whole is None else whole // tiles
    return [Gpu(pci, known["name"], known["arch"], tile, False, share) for tile in range(tiles)]


def _memory(machine: Machine, pci: Pci) -> int | None:
    """Bytes of a card's own memory, as the xe driver (by tile) or the i915 driver says them."""
    import re

    number = re.compile(r"0x[0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,19}")
    folder = f"/sys/bus/pci/devices/{pci.address}"
    for pattern in ("tile*/physical_vram_size_bytes", "drm/card*/lmem_total_bytes"):
        texts = [machine.read(path) or "" for path in machine.glob(f"{folder}/{pattern}")]
        # the drivers write decimal or 0x-prefixed numbers
        sizes = [int(text, 0) for text in map(str.strip, texts) if number.fullmatch(text)]
        if sizes:
            return sum(sizes)
    return None


def _shown(mask: str | None, gpus: Sequence[Gpu]) -> tuple[int, ...]:
    """Which GPUs a Level Zero mask leaves: it selects, and does not put them in another order.

    A tile may be named as `card.tile` where a card is one device; the card is then what is seen.
    """
    entries = [entry.strip().partition(".")[0] for entry in (mask or "").split(",")]
    setting = ",".join(dict.fromkeys(entry for entry in entries if entry))
    return tuple(sorted(visible(setting or None, len(gpus))))


def _device(machine: Machine, gpu: Gpu, index: int, hidden: Problem | None) -> Device:
    problem = hidden or _problem(machine, gpu.pci)
    return Device(
        vendor=VENDOR,
        name=gpu.name,
        kind="xpu",
        arch=gpu.arch,
        index=index,
        family=load_facts(__name__).archs[gpu.arch].family,
        memory=gpu.memory,
        memory_model="unified" if gpu.integrated else "discrete",
        driver=gpu.pci.driver,
        toolkit=torch_build(machine).get("xpu"),
        pci_address=gpu.pci.address,
        priority=INTEGRATED if gpu.integrated else DISCRETE,
        problem=problem.problem if problem else None,
        remedy=problem.remedy if problem else None,
        attributes={} if gpu.tile is None else {"tile": gpu.tile},
    )


def _problem(machine: Machine, pci: Pci) -> Problem | None:
    """Why torch cannot use the card, nearest to the metal first."""
    if pci.driver not in DRIVERS:
        held = f"; {pci.driver} does" if pci.driver else ""
        return Problem(f"neither xe nor i915 drives the card{held}", "sudo modprobe xe")
    if not machine.glob("/dev/dri/renderD*"):
        return Problem("there is no /dev/dri/renderD* here", "docker run --device /dev/dri ...")
    wrong = torch_problem(machine, needs=NEEDS_TORCH, install=INSTALL)
    if wrong is not None:
        return wrong
    build = torch_build(machine)
    if build.get("xpu") or "+xpu" in build["version"]:
        return None
    return Problem(f"torch {build['version']} is not built for XPU", INSTALL)


def _with_intels_triton(impl: Impl, machine: Machine) -> Impl:
    """Intel's triton has had two names on its way."""
    names = ("triton-xpu", "pytorch-triton-xpu")
    if impl.feature is not Feature.OP or impl.name not in {"triton", "compile"}:
        return impl
    if any(machine.version(name) for name in names):
        return impl
    return replaced(impl, unavailable=f"neither {' nor '.join(names)} is installed")
