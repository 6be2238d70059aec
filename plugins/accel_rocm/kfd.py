"""The graphics cards as the kernel's KFD driver lists them, in the order HIP counts them.

One folder a node under `/sys/class/kfd/kfd/topology/nodes`, processors among them, each with a
file `properties` of `name number` lines. Reading them opens no device and needs no privileges; a
node that a container may not use reads as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from accel.machine import Machine
from accel.value import Value

NODES = "/sys/class/kfd/kfd/topology/nodes"
_SYSTEM_HEAP = 0


class Node(Value, kw_only=False):
    """A GPU node. `vendor` as in PCI, hexadecimal; `memory` in bytes, None where it is not told."""

    number: int
    vendor: str
    arch: str | None
    address: str
    memory: int | None
    compute_units: int | None
    unique_id: int


def gpus(machine: Machine) -> tuple[Node, ...]:
    """GPU nodes by number, which is the order of HIP's device indices."""
    numbers = (path.rpartition("/")[2] for path in machine.glob(f"{NODES}/[0-9]*"))
    found = (_node(machine, number) for number in sorted(map(int, filter(str.isdecimal, numbers))))
    return tuple(node for node in found if node is not None)


def architecture(version: int) -> str | None:
    """`gfx_target_version` in the vendor's own words: 90402 is gfx942, 90010 is gfx90a.

    Two decimal digits each for minor and step, written as one hexadecimal digit each. 0 is none.
    """
    major, minor, step = version // 10000, version // 100 % 100, version % 100
    if major == 0 or minor > 15 or step > 15:
        return None
    return f"gfx{major}{minor:x}{step:x}"


def address(domain: int, location: int) -> str:
    """A PCI address from KFD's two numbers: `location_id` holds bus, device and function."""
    return f"{domain:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.{location & 7}"


def _node(machine: Machine, number: int) -> Node | None:
    values = _numbers(machine.read(f"{NODES}/{number}/properties"))
    simds = values.get("simd_count", 0)
    if simds == 0:  # a processor, or a card that is not ours to use
        return None
    per_unit = values.get("simd_per_cu", 0)
    return Node(
        number=number,
        vendor=f"{values.get('vendor_id', 0):04x}",
        arch=architecture(values.get("gfx_target_version", 0)),
        address=address(values.get("domain", 0), values.get("location_id", 0)),
        memory=_memory(machine, number),
        compute_units=simds // per_unit if per_unit else None,
        unique_id=values.get("unique_id", 0),
    )


def _memory(machine: Machine, number: int) -> int | None:
    """Bytes in the card's own heaps; of an integrated one, what was set aside for it."""
    banks = [
        _numbers(machine.read(path))
        for path in machine.glob(f"{NODES}/{number}/mem_banks/[0-9]*/properties")
    ]
    own = sum(
        bank.get("size_in_bytes", 0) for bank in banks if bank.get("heap_type") != _SYSTEM_HEAP
    )
    return own or None


def _numbers(text: str | None) -> Mapping[str, int]:
    import re

    pairs = re.findall(r"^(\w+) (\d{1,20})$", text or "", re.MULTILINE)
    return {name: int(value) for name, value in pairs}
