"""The generated pages are those that would be generated now."""

from __future__ import annotations

import importlib.util
import json
import sys

import flags
from accel import doctor, pipeline, testing
from failure import ROOT, cases
from flags_table import RECORD
from write_docs import ELSEWHERE, FLAGS_PAGE, PAGE, flags_page, page


def test_the_page_of_failures_is_up_to_date() -> None:
    again = "PYTHONPATH=tests/failures python tests/failures/write_docs.py"
    assert PAGE.read_text(encoding="utf-8") == page(), again
    assert FLAGS_PAGE.read_text(encoding="utf-8") == flags_page(), again


def test_the_measured_table_has_every_row_and_each_ended_as_it_should() -> None:
    measured = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    assert [one["flag"] for one in measured] == [row.name for row in flags.ROWS], (
        "make flags FLAGS_ARGS=--record"
    )
    for row, one in zip(flags.ROWS, measured, strict=True):
        strict = row.strict if row.after == flags.TRAINS else flags.REFUSED
        assert (row.before or flags.TRAINS) in one["without accel"]
        assert one["with accel"].startswith(row.after)
        assert one["under strict"].startswith(strict)
        assert row.said in one["with accel"] or row.after == flags.REFUSED


def test_every_known_failure_has_a_place() -> None:
    named = {one.failure for one in cases()} | {row[0] for row in ELSEWHERE}
    assert named >= {f"P{number}" for number in range(1, 27)}


def test_troubleshooting_is_up_to_date_and_complete() -> None:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "tools/troubleshooting.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    sys.modules["pages"] = tool
    spec.loader.exec_module(tool)
    found = tool.entries()
    symptoms, troubles = tool.told()
    assert {entry.symptom for entry in found} == set(symptoms), "none is left over"
    ids = [name for owned in doctor.troubles().values() for name in owned]
    assert sorted(ids) == sorted(troubles), "nor any of the doctor's"
    for language, path in tool.PAGES.items():
        assert path.read_text(encoding="utf-8") == tool.page(language, found), path


def test_every_patch_of_ours_has_a_symptom() -> None:
    silent = [
        patch.target
        for name in testing.machines()
        for patch in pipeline.plan(machine=str(name)).patches
        if not patch.symptom
    ]
    assert not silent
