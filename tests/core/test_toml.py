"""The reader of facts files against tomllib: the same documents, and never one tomllib refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel import toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(toml.__file__).parent.parent
FILES = sorted(ROOT.glob("[apk]*/**/*.toml"))
NOT_AT_START = ("doctor", "combinations", "operators", "troubleshooting")
FACTS = [file for file in FILES if file.stem not in NOT_AT_START]


@pytest.mark.parametrize("file", FACTS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_facts_are_read_without_tomllib(file: Path) -> None:
    assert toml.plainly(file.read_text(encoding="utf-8")) is not None


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_our_own_files_are_read_as_tomllib_reads_them(file: Path) -> None:
    assert len(FACTS) > 10
    compare(file.read_text(encoding="utf-8"))


ODD = [
    'a = "x\\ty"',
    "a = 'x'",
    'a = """x\ny"""',
    "a = 1.5",
    "a = 1.05",
    "a = 1.",
    "a = .5",
    "a = 1.5e3",
    "a = 1.2.3",
    "a = 1:2",
    "a = -1",
    "a = 0x1f",
    "a = 1_000",
    "a = 2026-01-01",
    "a.b = 1",
    "a.b = 1\na.c = 2\n[a]",
    "[a]\nb.c = 1\nb.d = 2\n[a.b]",
    "[a.b]\nc = 1\n[a]\nb.d = 2",
    "a = { b.c = 1, b.d = 2 }\na.b.e = 3",
    "a.b = 1\na.b.c = 2",
    "a.b.c = 1\na.b = 2",
    "[a]\n[a]",
    "a = 1\na = 2",
    "[a]\nb = 1\n[a.b]",
    "[a.b]\nc = 1\n[a]\nd = 2\n[a.e]",
    "a = [1, 2,]\nb = []\nc = [[1], [\n2]]",
    "a = [1 2]",
    "a = [,]",
    "a = { b = 1, }",
    "a = { b = 1, b = 2 }",
    "a = {}\n[a.b]",
    "[[a]]\nb = 1\n[[a]]\n[a.c]\nd = 2",
    "[a]\n[[a]]",
    "[[a]]\n[a]",
    "[[a.b]]\n[a]\nc = 1",
    "a = 01",
    "a = ",
    "= 1",
    "a",
    "[a",
    "[]",
    "[[a]",
    "a = 1 b = 2",
    "# only this",
    "a = 1 # é",
    "a = 1\r\nb = 2",
    "a = true\nb = false\nc = True",
    '"a b" = 1\n["c d"."e"]\nf = "#"',
    "a = { b = [ { c = 1 } ] }",
    "a = { b = 1\n}",
    "\ufeffa = 1",
    "a = 1\x00",
    "a = 12345678901234567890",
]


@pytest.mark.parametrize("text", ODD)
def test_what_is_read_here_is_what_tomllib_reads(text: str) -> None:
    compare(text)


def compare(text: str) -> None:
    try:
        expected: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assert toml.plainly(text) is None
        with pytest.raises(ValueError):  # noqa: PT011 - tomllib's own, whatever it says
            toml.loads(text)
        return
    assert toml.plainly(text) in (None, expected)
    assert toml.loads(text) == expected


PIECES = """a b "c d" 1 0 true "x" "" [ ] [[ ]] { } = , . # \\ ' - + 1.5"""
pieces = st.sampled_from([*PIECES.split(" "), " ", "\n", "\t"])


@given(st.lists(pieces, max_size=14).map("".join))
def test_no_text_is_read_otherwise_than_tomllib_reads_it(text: str) -> None:
    compare(text)


keys = st.sampled_from(["a", "b", "c-d", "e_f", "1"])
plain = st.recursive(
    st.booleans() | st.integers(0, 99) | st.text("abc #[]{}=,", max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


def written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


@given(st.dictionaries(keys, st.dictionaries(keys, plain, max_size=3), max_size=3))
def test_tables_of_plain_values_are_read_without_tomllib(document: dict[str, Any]) -> None:
    text = "".join(
        f"[{name}]\n" + "".join(f"{key} = {written(value)} # so\n" for key, value in table.items())
        for name, table in document.items()
    )
    assert toml.plainly(text) == document
