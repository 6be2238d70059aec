"""What is expected to fail, what the results look like, and the suite as pytest's tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as Tree
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.errors import InputError
from accel.testing.conformance import RULES, Conformance, Finding, Result
from accel.testing.conformance.computing import names, operators
from accel.testing.conformance.expected import Expected, draft, judged, parse
from accel.testing.conformance.rendering import junit, table, verdict
from world import SOUND, accel, conformance, environment, failures, install

IDS = [rule.id for rule in RULES]
FORETOLD = """
schema = 1
[[expected]]
rule = "probe.declared"
reason = "its probe is not written yet"
link = "https://example.org/7"
"""
NO_PROBE = SOUND.replace(", probe=PROBE", "")


def outcome(*results: Result) -> Conformance:
    return Conformance(
        plugin="ace",
        distribution="accel-ace",
        version="1.0",
        how="recorded",
        device=None,
        versions={"accel": "0.1.0"},
        date="2026-01-01",
        results=results,
    )


def result(status: str, rule: str = "load.hooks", case: str = "", detail: str = "") -> Result:
    return Result(rule=rule, case=case, status=status, detail=detail, seconds=0.5)  # type: ignore[arg-type]


def test_a_failure_that_was_foretold_is_none(tmp_path: Path) -> None:
    folder = install(tmp_path, NO_PROBE, expected=FORETOLD)
    code, document = conformance(folder, "--only", "probe.declared", "--only", "load.hooks")
    assert code == 0
    assert failures(document) == {}
    (foretold,) = (r for r in document["results"] if r["status"] == "expected")
    assert foretold["case"] == "ace1/dtype:float32"
    assert foretold["reason"] == "its probe is not written yet"
    assert foretold["link"] == "https://example.org/7"


def test_an_unexpected_pass_is_a_failure(tmp_path: Path) -> None:
    folder = install(tmp_path, expected=FORETOLD)
    code, document = conformance(folder, "--only", "probe.declared")
    assert code == 1
    assert [r["status"] for r in document["results"]] == ["unexpected"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("schema = 2", "no list of expected failures"),
        ("schema = 1\n[[expected]]\nrule = 'load.hooks'", "gives no reason"),
        ("schema = 1\n[[expected]]\nrule = 'load.hook'\nreason = 'x'", "rule that there is not"),
        ("schema = 1\n[[expected]]\nrule = 'load.hooks'\nreason = 'x'\nway = 1", "has way"),
        ("schema = 1\n[[expected]]\nrule='load.hooks'\nreason='x'\nwhere='there'", "where ="),
        ("schema = 1\n[[expected]]\nrule='load.hooks'\nreason='x'\ncase=[]", "case = "),
        ("schema = 1\n[[expected]]\nrule='load.hooks'\nreason='x'\ncase=[3]", "case = "),
        ("schema =", "not valid TOML"),
    ],
)
def test_a_malformed_file_is_named_by_its_place(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        parse(text, "there/conformance.toml", IDS)
    assert "there/conformance.toml" in str(caught.value)
    assert caught.value.remedy


@given(
    status=st.sampled_from(["passed", "failed", "skipped"]),
    case=st.text(max_size=5),
    pattern=st.sampled_from(["*", "a*", "b"]),
)
def test_only_what_ran_and_failed_can_be_expected(status: str, case: str, pattern: str) -> None:
    entry = Expected(rule="load.hooks", reason="a reason", cases=("x", pattern))
    finding = Finding(case=case, status=status)  # type: ignore[arg-type]
    became = judged("load.hooks", finding, [entry]).status
    if not entry.matches("load.hooks", case) or status == "skipped":
        assert became == status
    else:
        assert became == {"passed": "unexpected", "failed": "expected"}[status]


def test_a_draft_has_what_failed_and_wants_reasons(tmp_path: Path) -> None:
    folder = install(tmp_path, NO_PROBE)
    done = accel(folder, "conformance", "ace", "--only", "probe.declared", "--draft", "new.toml")
    assert done.returncode == 1
    drafted = (tmp_path / "new.toml").read_text()
    with pytest.raises(InputError, match="entry 1 gives no reason"):
        parse(drafted, "new.toml", IDS)
    (tmp_path / "accel_ace" / "conformance.toml").write_text(
        drafted.replace('reason = ""', 'reason = "its probe is not written yet"')
    )
    code, document = conformance(folder, "--only", "probe.declared", "--only", "load.hooks")
    assert (code, failures(document)) == (0, {})


def test_what_fails_in_every_dtype_or_for_one_reason_is_one_entry() -> None:
    rows = [
        ("float32/mm", "failed", "none"),
        ("float16/mm", "failed", "none"),
        ("float32/abs", "passed", "fine"),
        ("float16/abs", "failed", "only\nfloat32"),
        ("float16/conv[2]*", "failed", "only\nfloat32"),
        ("float32/conv[2]*", "passed", "fine"),
    ]
    results = [result(status, "dtype.computes", case, said) for case, status, said in rows]
    drafted = draft(results, {"dtype.computes": "hardware"})
    assert 'reason = ""  # only float32' in drafted
    entries = parse(drafted.replace('""', '"why"'), "new.toml", IDS)
    assert {entry.where for entry in entries} == {"hardware"}
    assert [entry.cases for entry in entries] == [
        ("*/mm",),
        ("float16/abs", "float16/conv[[]2][*]"),
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["dtype.computes", "probe.passes"]),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
            st.sampled_from(["passed", "failed", "skipped"]),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
        ),
        unique_by=lambda row: row[:2],
    )
)
def test_a_draft_foretells_all_that_failed_and_nothing_that_passed(
    rows: list[tuple[str, str, str, str]],
) -> None:
    results = [result(status, rule, case, detail) for rule, case, status, detail in rows]
    entries = parse(draft(results).replace('reason = ""', 'reason = "why"'), "new.toml", IDS)
    for one in results:
        foretold = any(entry.matches(one.rule, one.case) for entry in entries)
        if one.status != "skipped":
            assert foretold is (one.status == "failed"), (one, entries)


def test_nothing_that_did_not_run_has_passed() -> None:
    assert not outcome().ok
    assert not outcome(result("skipped"), result("expected")).ok
    assert outcome(result("skipped"), result("passed")).ok
    assert not outcome(result("passed"), result("unexpected")).ok
    assert verdict([result("skipped")]) == "skipped"
    assert verdict([result("skipped"), result("expected")]) == "expected"
    assert verdict([]) == "skipped"


def test_results_can_be_kept_and_read_again() -> None:
    kept = outcome(result("passed"), result("skipped", "claim.own", "x", "no such device here"))
    document = json.loads(json.dumps(kept.to_json()))
    assert document["ok"] is True
    assert Conformance.from_json(document) == kept
    for damaged in ({}, {**document, "schema": "x"}, {**document, "results": [{"rule": 1}]}, 3):
        with pytest.raises(InputError, match="conformance results"):
            Conformance.from_json(damaged)


def test_what_is_kept_does_not_say_where_packages_are() -> None:
    said = "no /opt/rocm/lib/x.so, ['/home/me/.venv/lib/python3.11/site-packages/triton/x.so']"
    kept = outcome(result("failed", detail=said))
    assert kept.results[0].detail == said
    (found,) = json.loads(kept.text())["results"]
    assert found["detail"] == "no /opt/rocm/lib/x.so, ['site-packages/triton/x.so']"


def test_the_table_and_junit_have_every_status() -> None:
    kept = outcome(
        result("passed", detail="fine"),
        result("failed", "claim.own", "box", "claims <nothing>\x07"),
        result("unexpected", "claim.only", "box", "passed"),
        result("expected", "claim.values", "box", "odd"),
        result("skipped", "dtype.computes", "", "no such device here"),
    )
    text = table(kept, color=False, width=100)
    assert "claim.own" in text
    assert "failed     claim.own[box]: claims <nothing>" in text
    assert "recorded machines only: no such device here" in text
    assert text.splitlines()[-1].startswith("ace: 1 passed, 1 failed as expected, 1 skipped")
    root = Tree.fromstring(junit(kept))
    assert len(root.findall(".//testcase")) == 5
    counts = {"tests": "5", "failures": "2", "skipped": "2", "errors": "0", "time": "2.500"}
    assert {key: root.get(key) for key in counts} == counts
    told = {p.get("name"): p.get("value") for p in root.findall("testsuite[1]/properties/property")}
    assert told["plugin"] == "accel-ace 1.0"
    assert told["where"] == "recorded machines only: no such device here"
    assert told["accel"] == "0.1.0"
    assert [f.get("type") for f in root.findall(".//failure")] == ["failed", "unexpected"]
    assert [s.get("type") for s in root.findall(".//skipped")] == ["xfail", "skip"]


def test_what_many_cases_say_is_one_line() -> None:
    said = [result("failed", "dtype.computes", f"float16/{n}", "no float16") for n in range(20)]
    rows = [*said, result("failed", "dtype.computes", "float32/mm", "wrong")]
    rows += [
        result("skipped", rule, "", "no such device here")
        for rule in ("runtime.event", "runtime.random")
    ]
    lines = table(outcome(*rows), color=False).splitlines()
    assert "failed     dtype.computes[float16/0] and 19 more: no float16" in lines
    assert "failed     dtype.computes[float32/mm]: wrong" in lines
    assert "skipped    runtime.event, runtime.random: no such device here" in lines
    rows = [result("failed", "dtype.computes", str(n), f"wrong by {n}") for n in range(20)]
    assert "  and 8 more of dtype.computes" in table(outcome(*rows), color=False).splitlines()


def test_the_files_and_the_exit_code_of_the_command(tmp_path: Path) -> None:
    folder = install(tmp_path)
    arguments = ["conformance", "ace", "--only", "load", "--only", "dtype.computes"]
    done = accel(folder, *arguments, "--junit", "j.xml", "--save", "r.json")
    assert done.returncode == 0, done.stderr
    assert "recorded machines only" in done.stdout
    assert "load.hooks" in done.stderr  # progress
    assert Tree.parse(tmp_path / "j.xml").getroot().tag == "testsuites"
    kept = Conformance.from_json(json.loads((tmp_path / "r.json").read_text()))
    assert (kept.plugin, kept.distribution, kept.version) == ("ace", "accel-ace", "1.0")
    assert kept.versions["torch"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["acee"], "did you mean 'ace'"),
        (["ace", "--only", "load.hook"], "did you mean 'load.hooks'"),
        (["ace", "--device", "ace:3"], "no usable device 'ace:3' here"),
    ],
)
def test_what_is_asked_for_and_is_not_there(
    arguments: Sequence[str], says: str, tmp_path: Path
) -> None:
    done = accel(install(tmp_path), "conformance", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "try:" in done.stderr


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment(folder),
    )


def test_the_suite_as_pytests_tests(tmp_path: Path) -> None:
    install(tmp_path, expected=FORETOLD)
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    own = run_pytest(tmp_path, "-q", "--collect-only")
    assert own.returncode == 0
    assert "1 test collected" in own.stdout
    done = run_pytest(tmp_path, "--accel-plugin=ace", "-rs", "-v", "-k", "own or load or declared")
    assert "test_own.py::test_own PASSED" in done.stdout
    assert "conformance::ace[load.hooks] PASSED" in done.stdout
    assert "conformance::ace[probe.declared] FAILED" in done.stdout
    assert "probe.declared: passed, though it was expected to fail" in done.stdout
    assert done.returncode == 1
    unknown = run_pytest(tmp_path, "--accel-plugin=acee")
    assert unknown.returncode == 4
    assert "did you mean 'ace'" in unknown.stderr


def test_pytest_without_the_option_imports_nothing_of_the_suite(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import sys\n\ndef test_own():\n"
        "    heavy = {'torch', 'pluggy.accel', 'accel.testing', 'accel.pipeline', 'rich'}\n"
        "    assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "    assert 'accel.pytest_plugin' in sys.modules\n"
    )
    done = run_pytest(tmp_path, "-q")
    assert done.returncode == 0, done.stdout
    assert os.path.exists(tmp_path / "test_own.py")


def test_the_operators_are_those_that_training_uses_and_torch_has_them() -> None:
    listed = names()
    assert len(listed) == len(set(listed)) > 150
    assert set(operators()["looser"]) <= set(listed)
    assert all(entry["why"] for entry in operators()["looser"].values())
    for name in ("matmul", "softmax", "nn.functional.layer_norm", "nn.functional.embedding"):
        assert name in listed
