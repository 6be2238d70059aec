"""The tool that runs other people's tests: what it reads and what it calls lost."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "upstream_tests.py"
REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_a.T" name="test_one"/>
<testcase classname="tests.test_a.T" name="test_two"><failure message="x">y</failure></testcase>
<testcase classname="tests.test_a.T" name="test_three"><skipped/></testcase>
<testcase classname="tests.test_a.T" name="test_four"><error>z</error></testcase>
</testsuite></testsuites>"""


def tool():
    spec = importlib.util.spec_from_file_location("upstream_tests", TOOL)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["upstream_tests"] = module  # dataclasses look their module up
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def test_outcomes_of_a_report():
    assert tool().outcomes(REPORT) == {
        "tests.test_a.T::test_one": "passed",
        "tests.test_a.T::test_two": "failed",
        "tests.test_a.T::test_three": "skipped",
        "tests.test_a.T::test_four": "failed",
    }


def test_lost_is_what_passes_only_without():
    without = {"a": "passed", "b": "passed", "c": "failed", "d": "passed", "e": "skipped"}
    with_accel = {"a": "passed", "b": "failed", "c": "passed", "e": "passed"}
    assert tool().lost(without, with_accel) == ["b", "d"]
