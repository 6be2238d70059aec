"""docs/doctor.md lists every trouble, in the words of the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel import doctor
from accel.troubles import Trouble

PAGE = Path(__file__).resolve().parents[2] / "docs" / "doctor.md"
BEGIN, END = "<!-- troubles -->\n", "<!-- end -->\n"


def entry(trouble: Trouble) -> str:
    lines = [
        f"#### {trouble.title}\n",
        f"`{trouble.id}`, {trouble.severity}\n",
        f"> {trouble.symptom}\n",
        f"*Cause:* {trouble.cause}.",
        f"*Remedy:* {trouble.remedy}.\n",
    ]
    return "\n".join(
        [*lines, *([f"*Upstream:* <{trouble.upstream}>\n"] if trouble.upstream else [])]
    )


def listing() -> str:
    parts = []
    for package, troubles in doctor.troubles().items():
        parts += [f"### {package}\n", *map(entry, troubles.values())]
    return "\n".join(["", *parts, ""])


def test_the_page_lists_every_trouble(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    expected = f"{before}{BEGIN}{listing()}{END}{after}"
    if request.config.getoption("--update-golden"):
        PAGE.write_text(expected, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == expected
