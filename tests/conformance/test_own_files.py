"""The lists of expected failures that come with our own plugins can be read, and give reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.testing.conformance import RULES
from accel.testing.conformance.expected import FILE, parse

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


@pytest.mark.parametrize("file", sorted(PLUGINS.glob(f"*/{FILE}")), ids=lambda f: f.parent.name)
def test_each_entry_says_why_and_where(file: Path) -> None:
    entries = parse(file.read_text(encoding="utf-8"), str(file), [rule.id for rule in RULES])
    assert entries
    for entry in entries:
        assert len(entry.reason.split()) >= 5
        assert entry.where == "simulator" or entry.link, "what fails on hardware needs a link"
