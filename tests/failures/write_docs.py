"""Write docs/failures.md: each known failure, where it is reproduced, and how.

python tests/failures/write_docs.py
"""

from __future__ import annotations

from collections.abc import Iterable

import failure

PAGE = failure.ROOT / "docs" / "failures.md"
INTRO = """# Failures, and how each is reproduced

Generated from `tests/failures` by `tests/failures/write_docs.py`. Each row is run without accel,
where the error must be the one in the table, then with accel, where it must not be there, and again
after `revert()`, where it must be back. `make test` runs those of the environment `test`, and
`make test-failures` all of them, in the environments of `tests/failures/environments.toml`.

*real*: the libraries themselves, on a CPU. *simulated*: the library itself, but the card's part
(a raise, a capability) is put on. *recorded*: decided for a recorded machine.
"""
ELSEWHERE = (
    ("P21", "CPU-only torch beside a card", "a diagnosis of `accel doctor`", "recorded"),
    ("P22", "device_map on unified memory", "a diagnosis of `accel doctor`", "recorded"),
    ("P23", "pip replaces a vendor's torch", "a diagnosis of `accel doctor`", "recorded"),
)
OTHERS = """
P numbers are those of the collection of known failures; H are places that name `cuda` outright,
R are runs that went wrong in silence. What LLaMA-Factory's flags come to is in
[flags.md](flags.md), what a user sees and what accel does about it in
[troubleshooting.md](troubleshooting.md).
"""


def line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page() -> str:
    """The whole page."""
    rows = [
        (one.failure, one.title, f"`{one.error}`", where(one), one.how) for one in failure.cases()
    ]
    rows += [(name, title, what, "-", how) for name, title, what, how in ELSEWHERE]
    order = {"P": 0, "H": 1, "R": 2}
    rows.sort(key=lambda row: (order[row[0][0]], int(row[0][1:]), row[1]))
    head = [line(("", "what", "without accel", "environment", "how")), "|---|---|---|---|---|"]
    return "\n".join([INTRO, *head, *(line(row) for row in rows), OTHERS])


def where(one: failure.Case) -> str:
    """The environment, and whether `make test` leaves it out."""
    return f"{one.environment} (`make test-failures` only)" if one.long else one.environment


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
