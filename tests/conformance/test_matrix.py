"""The matrix says what passed, and never what was claimed."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from accel.errors import InputError
from accel.testing.conformance import Conformance, Result
from accel.testing.conformance.matrix import Cell, Matrix, build, read, render
from world import accel, install

ROOT = Path(__file__).resolve().parents[2]
SAYS = {
    "dtype:float32": "yes",
    "dtype:bfloat16": "yes",
    "dtype:float16": "it has no | float16 units",
    "attention:sdpa": "yes",
    "collective:accl": "yes",
}
DEVICE = {"name": "Ace One", "arch": "ace1", "kind": "ace", "vendor": "ace"}


def outcome(how: str, *results: tuple[str, str, str], **changes: Any) -> Conformance:
    found = [
        Result(rule=rule, case=case, status=status, detail=f"said of {case}", seconds=0.1)  # type: ignore[arg-type]
        for rule, case, status in (("claim.own", "ace-one", "passed"), *results)
    ]
    fields: dict[str, Any] = {
        "plugin": "ace",
        "distribution": "accel-ace",
        "version": "1.0",
        "how": how,
        "device": None if how == "recorded" else DEVICE,
        "versions": {"accel": "0.1.0", "torch": "2.13.0"},
        "date": "2026-01-01",
        "results": tuple(found),
        "declared": {"ace1": {"name": "Ace One", "kind": "ace", "says": SAYS}},
    }
    return Conformance(**{**fields, **changes})


def mender() -> Conformance:
    return Conformance(
        plugin="books",
        distribution="accel-books",
        version="2.0",
        how="recorded",
        device=None,
        versions={"accel": "0.1.0"},
        date="2026-01-01",
        results=(
            Result(rule="claim.own", case="", status="skipped", detail="", seconds=0.0),
            Result(rule="patch.undo", case="a:b", status="passed", detail="", seconds=0.0),
        ),
        declared={
            "ace1": {
                "name": "Ace One",
                "kind": "ace",
                "says": {"patch:a:b": "yes", "patch:c:d": "yes"},
            }
        },
    )


def cell(matrix: Matrix, table: str, column: str) -> Cell:
    (found,) = (one for one in matrix.tables if one.title == table)
    ((_, _, arch, cells),) = found.rows
    assert arch == "ace1"
    return cells[found.columns.index(column)]


def test_what_is_only_declared_is_called_declared() -> None:
    matrix = build([outcome("recorded")])
    assert cell(matrix, "Dtype", "float32").word == "declared"
    assert cell(matrix, "Attention", "sdpa").word == "declared"
    refused = cell(matrix, "Dtype", "float16")
    assert refused.word == "no"
    assert matrix.reasons[refused.note - 1] == ("it has no | float16 units", "")


def test_the_hardware_comes_before_the_simulator_and_both_before_what_is_declared() -> None:
    passed = ("probe.passes", "dtype:float32", "passed")
    simulator = outcome("simulator", passed, ("probe.passes", "attention:sdpa", "passed"))
    hardware = outcome("hardware", passed)
    matrix = build([outcome("recorded"), simulator, hardware])
    assert cell(matrix, "Dtype", "float32").word == "measured"
    assert cell(matrix, "Attention", "sdpa").word == "simulator"
    assert cell(matrix, "Dtype", "bfloat16").word == "declared"
    letters = {run.letter: run.how for run in matrix.runs}
    assert letters[cell(matrix, "Dtype", "float32").run] == "hardware"


@pytest.mark.parametrize(
    ("results", "word"),
    [
        ([("probe.passes", "dtype:float32", "failed")], "fails"),
        ([("probe.passes", "dtype:float32", "expected")], "no"),
        ([("probe.passes", "dtype:float32", "skipped")], "declared"),
        (
            [
                ("probe.passes", "dtype:float32", "passed"),
                ("dtype.computes", "float32/mm", "failed"),
            ],
            "partly",
        ),
        (
            [
                ("probe.passes", "dtype:float32", "passed"),
                ("dtype.computes", "float32/mm", "passed"),
            ],
            "measured",
        ),
    ],
)
def test_a_cell_is_no_more_than_what_passed(results: list[tuple[str, str, str]], word: str) -> None:
    found = cell(build([outcome("hardware", *results)]), "Dtype", "float32")
    assert found.word == word
    assert bool(found.note) is (word not in ("declared", "measured"))


def test_runtime_and_ranks_are_counted_where_they_ran() -> None:
    ran = outcome(
        "simulator",
        ("runtime.memory", "allocated", "passed"),
        ("runtime.memory", "peak", "skipped"),
        ("collective.sums", "accl/2", "passed"),
        ("collective.sums", "accl/3", "failed"),
        ("dtype.computes", "float32/mm", "passed"),
    )
    matrix = build([ran])
    assert cell(matrix, "Operators and runtime", "memory").text == "simulator 1/1"
    assert cell(matrix, "Operators and runtime", "operators").text == "simulator 1/1"
    ranks = cell(matrix, "Operators and runtime", "2, 3, 4 ranks")
    assert (ranks.word, ranks.text) == ("partly", "simulator 1/2")
    assert cell(matrix, "Operators and runtime", "streams").text == "not run"
    assert build([outcome("recorded")]).tables[-2].rows == []


def test_repairs_are_those_that_were_applied_and_undone() -> None:
    matrix = build([outcome("recorded"), mender()])
    found = cell(matrix, "Framework repairs", "books")
    assert (found.word, found.text) == ("measured", "undone 1/2")
    failed = dataclasses.replace(
        mender(),
        results=(Result(rule="patch.undo", case="a:b", status="failed", detail="x", seconds=0.0),),
    )
    assert cell(build([outcome("recorded"), failed]), "Framework repairs", "books").word == "fails"


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.ids.add(known.get("id") or "")
        if (target := known.get("href") or "").startswith("#"):
            self.targets.add(target[1:])


def test_every_cell_leads_to_its_run_and_every_no_to_its_reason() -> None:
    evil = outcome("hardware", ("probe.passes", "dtype:float32", "failed"), version="<b>&|1")
    matrix = build([evil, mender()])
    page = _Links()
    html = render(matrix, "html")
    page.feed(html)
    assert page.targets
    assert page.targets <= page.ids
    assert "<b>" not in html
    text = render(matrix, "md")
    for number in set(re.findall(r"\(#r(\d+)\)", text)):
        assert f'<a id="r{number}"></a>' in text
    rows = [line for line in text.split("\n") if line.startswith("| Ace One")]
    assert rows
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows[:1]}
    heads = [line for line in text.split("\n") if line.startswith("| device |")]
    assert widths == {len(re.findall(r"(?<!\\)\|", heads[0]))}


def test_the_order_of_the_results_changes_nothing() -> None:
    runs = [outcome("recorded"), outcome("simulator"), mender(), outcome("hardware")]
    assert render(build(runs), "md") == render(build(runs[::-1]), "md")


def test_the_command_writes_and_checks(tmp_path: Path) -> None:
    install(tmp_path)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "ace.json").write_text(outcome("recorded").text())
    options = ["--results", "kept", "--output", "s.md", "--html", "s.html"]
    assert accel(tmp_path, "matrix", *options, "--check").returncode == 1
    assert not (tmp_path / "s.md").exists()
    assert accel(tmp_path, "matrix", *options).returncode == 0
    assert accel(tmp_path, "matrix", *options, "--check").returncode == 0
    document = json.loads(accel(tmp_path, "matrix", *options, "--json").stdout)
    assert document["schema"] == "accel-matrix/1"
    (kept / "bad.json").write_text("{}")
    done = accel(tmp_path, "matrix", *options)
    assert done.returncode == 2
    assert "bad.json holds no conformance results" in done.stderr
    with pytest.raises(InputError, match="no conformance results in"):
        read(tmp_path / "none")


def test_docs_support_regenerates_byte_for_byte() -> None:
    matrix = build(read(ROOT / "docs" / "results"))
    for form in ("md", "html"):
        kept = (ROOT / "docs" / f"support.{form}").read_bytes()
        assert render(matrix, form) == kept.decode(), f"accel matrix writes docs/support.{form}"  # type: ignore[arg-type]
