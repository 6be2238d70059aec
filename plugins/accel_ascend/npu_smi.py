"""What `npu-smi info` prints, read. The table has three forms, told apart by its two header lines.

| NPU   Name   | Health | Power ...          | NPU     Name    | Health ...
| Chip         | Bus-Id | ... HBM-Usage      | Chip    Device  | Bus-Id | ... Memory-Usage
(910, 910B: one chip a card)                 (310P: several chips a card, logical ids)

| NPU   Name   | Health | ...                | NPU ID | Name     | Health | ...
| Chip  Phy-ID | Bus-Id | ... HBM-Usage      |        |          | Bus-Id | ... HBM-Usage
(910_93: two dies a card, physical ids)      (950)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

MIB = 2**20
_BUS = re.compile(r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]")
_PAIR = re.compile(r"\d+\s*/\s*(\d+)")


@dataclasses.dataclass(frozen=True)
class Chip:
    """One line pair of the table. `physical` is N of `/dev/davinciN`, where the table says it.

    `card` and `number` are what `npu-smi info -t board -i CARD -c NUMBER` takes. Memory in bytes.
    """

    card: int
    number: int
    name: str
    health: str
    bus: str | None
    physical: int | None
    memory: int | None


def chips(text: str) -> tuple[Chip, ...]:
    """The chips in the order of the table, which is the order of logical ids.

    Anything that is not a pair of lines of a form known is passed over, so a table of a form to
    come gives nothing rather than something wrong.
    """
    found: list[Chip] = []
    first: list[str] | None = None
    second_header: list[str] = []
    for cells in _rows(text):
        if cells[0].startswith("NPU"):
            if "Process id" in cells:
                break  # below stand processes, whose lines look alike
            first = None
        elif len(cells) > 1 and "Bus-Id" in cells:
            second_header = cells[: cells.index("Bus-Id")]
        elif first is None:
            first = cells
        else:
            chip = _chip(first, cells, second_header)
            if chip is not None:
                found.append(chip)
            first = None
    return tuple(found)


def _rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if len(cells) > 2 or (cells and "Process id" in cells):
                yield cells


def _chip(first: Sequence[str], second: Sequence[str], header: Sequence[str]) -> Chip | None:
    head = " ".join(first[: len(header)]).split()
    if len(head) < 2 or not head[0].isdecimal():
        return None
    card, name = int(head[0]), " ".join(head[1:])
    numbers = [int(part) for part in " ".join(second[: len(header)]).split() if part.isdecimal()]
    number = numbers[0] if numbers else 0
    physical = _physical(card, numbers, header)
    bus = _BUS.search(" ".join(second))
    totals = [int(total) for total in _PAIR.findall(second[-1])]
    # a chip with HBM says "0 / 0" for other memory, one without has no column for it
    total = totals[-1] if totals else 0
    return Chip(
        card=card,
        number=number,
        name=name,
        health=first[len(header)] if len(first) > len(header) else "",
        bus=bus.group(0).lower() if bus else None,
        physical=physical,
        memory=total * MIB or None,
    )


def _physical(card: int, numbers: Sequence[int], header: Sequence[str]) -> int | None:
    words = " ".join(header).split()
    if "Phy-ID" in words:
        return numbers[1] if len(numbers) > 1 else None
    if "Device" in words:
        return None  # a logical id stands there
    return card


def board(text: str) -> dict[str, str]:
    """The `Key : value` lines of `npu-smi info -t board`."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
