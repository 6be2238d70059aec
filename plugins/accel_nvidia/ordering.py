"""Which GPUs a process sees and under which number: CUDA's order, its list of visible devices, MIG.

A unit is (GPU, None) or (GPU, MIG instance), both by NVML's numbers, which follow PCI addresses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accel.detecting import visible

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

Unit = tuple[int, "int | None"]


def cuda_order(gpus: Sequence[Mapping[str, Any]], setting: str | None) -> tuple[list[int], bool]:
    """GPUs in the order in which CUDA numbers them, and whether that order is certain.

    `setting` is `CUDA_DEVICE_ORDER`. Without `PCI_BUS_ID` CUDA puts the fastest first by a measure
    of its own. Where all GPUs are of one name the two orders are one; in a mixed box the order by
    cores times clock is an estimate.
    """
    order = list(range(len(gpus)))
    if setting == "PCI_BUS_ID" or len({gpu.get("name") for gpu in gpus}) < 2:
        return order, True
    return sorted(order, key=lambda index: -(gpus[index].get("speed") or 0)), False


def seen(
    gpus: Sequence[Mapping[str, Any]],
    order: Sequence[int],
    setting: str | None,
    named: Mapping[str, Sequence[int | None]],
) -> tuple[Unit, ...]:
    """The units a process sees; the position of each is the number that torch gives it.

    `setting` is `CUDA_VISIBLE_DEVICES`, whose numbers count in `order`, and `named` says what its
    UUIDs are. An invalid entry ends the list. Where a MIG instance is seen, it is seen alone: CUDA
    enumerates one instance a process, and no whole GPU beside it (MIG User Guide, Device
    Enumeration). A GPU in MIG mode stands for its first instance, and without one for nothing, or
    for itself where it may have some and NVML failed to tell.
    """
    whole: list[Unit] = [(index, None) for index in order]
    sliced: list[Unit] = [
        (index, number)
        for index in order
        for number, _ in enumerate(gpus[index].get("instances", ()))
    ]
    units = whole + sliced
    chosen = [
        units[index] for index in visible(_by_number(setting, units, whole, named), len(units))
    ]
    if setting is None:
        chosen = whole
    expanded = [unit for choice in chosen if (unit := _first_instance(gpus, choice)) is not None]
    instances = [unit for unit in expanded if unit[1] is not None]
    return tuple(instances[:1] or expanded)


def _by_number(
    setting: str | None,
    units: Sequence[Unit],
    whole: Sequence[Unit],
    named: Mapping[str, Sequence[int | None]],
) -> str | None:
    """The list with UUIDs replaced by positions in `units`; a number is that of a whole GPU."""
    if setting is None:
        return None
    entries = []
    for position, text in enumerate(setting.split(",")):
        entry = text.strip()
        meant = named.get(str(position))
        if meant is not None and (unit := (meant[0], meant[1])) in units:
            entry = str(units.index(unit))
        else:
            number = _leading(entry)
            entry = str(number) if number is not None and number < len(whole) else "invalid"
        entries.append(entry)
    return ",".join(entries)


def _first_instance(gpus: Sequence[Mapping[str, Any]], unit: Unit) -> Unit | None:
    gpu = gpus[unit[0]]
    if unit[1] is not None or not gpu.get("mig"):
        return unit
    if gpu.get("instances"):
        return unit[0], 0
    return unit if gpu.get("untold") else None


def _leading(entry: str) -> int | None:
    """CUDA reads the number an entry begins with: it takes `0x` for 0 (seen on an H100)."""
    text = entry.removeprefix("+")
    digits = text[: len(text) - len(text.lstrip("0123456789"))].lstrip("0") or text[:1]
    return int(digits) if digits.isdecimal() and digits.isascii() and len(digits) < 10 else None
