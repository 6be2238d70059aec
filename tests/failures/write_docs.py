"""Write docs/failures.md and docs/flags.md: each known failure and flag, and how it is held.

python tests/failures/write_docs.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import failure
import flags
from flags_table import RECORD
from flags_table import markdown as table

FLAGS_PAGE = failure.ROOT / "docs" / "flags.md"
FLAGS_INTRO = """# LLaMA-Factory's flags on a plain CPU

What each flag of LLaMA-Factory 0.9.5 comes to, without accel and with it. Generated from
`tests/failures/flags.py`, whose tests hold every row with a two-layer model: `make test` those of
the environment `test`, `make test-failures` the others, each also under `ACCEL_STRICT=1`.
`make flags` runs the table with SmolLM2-135M and prints what it came to on your machine; rows
marked * need processes of their own and are run by `make flags` only.
"""
MEASURED = """
## As it came out

Two steps of SmolLM2-135M a row, without accel, with it, and with it under `ACCEL_STRICT=1`, as
`make flags FLAGS_ARGS=--record` printed it on: {where}.
"""

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
R are runs that went wrong in silence, V versions that pip puts together and that do not fit. What
LLaMA-Factory's flags come to is in [flags.md](flags.md), what a user sees and what accel does about
it in [troubleshooting.md](troubleshooting.md).
"""
UPSTREAM = failure.HERE / "upstream_measured.json"
UPSTREAM_INTRO = """
## Other people's own tests

accelerate's and LLaMA-Factory's own tests, from their source distributions, on the CPU and without
the hub, as `make test-upstream` runs them: without accel (torchvision and torchaudio hidden by
hand) and under `ACCEL_AUTO=1`. Most failures of LLaMA-Factory's are for want of the hub, both ways.
"""


def code(text: str) -> str:
    """As code, whatever is in it."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page() -> str:
    """The whole page."""
    rows = [
        (one.failure, one.title, code(one.error), where(one), one.how) for one in failure.cases()
    ]
    rows += [(name, title, what, "-", how) for name, title, what, how in ELSEWHERE]
    order = {"P": 0, "H": 1, "R": 2, "V": 3}
    rows.sort(key=lambda row: (order[row[0][0]], int(row[0][1:]), row[1]))
    head = [line(("", "what", "without accel", "environment", "how")), "|---|---|---|---|---|"]
    body = (line(row) for row in rows)
    return "\n".join([INTRO, *head, *body, OTHERS + UPSTREAM_INTRO, *upstream()]) + "\n"


def upstream() -> list[str]:
    """The table of tools/upstream_tests.py's last record."""
    head = ("tests of", "without accel", "with accel", "pass only without")
    lines = [line(head), "|" + "---|" * len(head)]
    for one in json.loads(UPSTREAM.read_text(encoding="utf-8")):
        counts = [
            ", ".join(f"{count} {state}" for state, count in one[way].items())
            for way in ("without", "with")
        ]
        lost = ", ".join(one["lost"]) or "none"
        lines.append(line((f"{one['distribution']} {one['version']}", *counts, lost)))
    return lines


def flags_page() -> str:
    """The whole page of flags."""
    head = ("flag", "without accel", "with accel", "under strict", "environment")
    lines = [line(head), "|" + "---|" * len(head)]
    for row in flags.ROWS:
        before = code(row.before) if row.before else "ends well, and says nothing"
        after = "trains" if row.after == flags.TRAINS else "refused"
        said = f"{after}: *{row.said}*" if row.said else after
        strict = row.strict if row.after == flags.TRAINS else flags.REFUSED
        name = f"{row.name} *" if row.program else row.name
        lines.append(line((name, before, said, strict, row.environment)))
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    measured = MEASURED.format(where=record["where"])
    return "\n".join([FLAGS_INTRO, *lines, measured, table(record["rows"])]) + "\n"


def where(one: failure.Case) -> str:
    """The environment, and whether `make test` leaves it out."""
    return f"{one.environment} (`make test-failures` only)" if one.long else one.environment


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    FLAGS_PAGE.write_text(flags_page(), encoding="utf-8")
