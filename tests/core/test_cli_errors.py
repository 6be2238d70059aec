"""The `accel` command with bad input: errors for people, an exit code, and nothing half done."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from accel.cli import main
from accel.recording import SCHEMA
from accel.testing import machines

BOX = {"schema": SCHEMA, "platform": {"system": "Linux", "arch": "x86_64", "python": "3.11.0"}}


def remedy(capsys: pytest.CaptureFixture[str]) -> str:
    """The one command that the error says to try."""
    lines = capsys.readouterr().err.splitlines()
    [said] = [line.partition("try:")[2].strip() for line in lines if "  try:" in line]
    return said


def test_advice_on_a_recorded_machine_is_about_that_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my box.json"
    file.write_text(json.dumps(BOX))
    for spec in ("h100", str(file)):
        assert main(["explain", "--machine", spec, "--device", "no-such-card"]) == 2
        advice = shlex.split(remedy(capsys))
        assert advice == ["accel", "devices", "--machine", spec]
        assert main(advice[1:]) == 0
        capsys.readouterr()
    assert main(["explain", "--no-probe", "--device", "no-such-card"]) == 2
    assert remedy(capsys) == "accel devices"


@pytest.mark.parametrize(
    ("arguments", "near", "lists"),
    [
        (["devices", "--machine", "h10"], "'h100'", "accel record --list"),
        (["explain", "--machine", "H10"], "'h100'", "accel record --list"),
        (["plan", "--machine", "h10"], "'h100'", "accel record --list"),
        (["doctor", "--machine", "h10"], "'h100'", "accel record --list"),
        (["record", "--machine", "h10"], "'h100'", "accel record --list"),
        (["simulate", "mlu59", "--", "python"], "'mlu590'", "accel simulate"),
        (["conformance", "hoper"], "'hopper'", "accel plugins"),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_an_unknown_name_is_told_what_is_near_and_where_the_list_is(
    arguments: list[str], near: str, lists: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"; did you mean {near}?\n" in said
    meant = near.strip("'")
    arguments = ["?" if text.lower() in ("h10", "mlu59", "hoper") else text for text in arguments]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "did you mean" not in said
    assert said.splitlines()[-1] == f"  try:   {lists}"
    assert max(map(len, said.splitlines())) < 100
    assert main(shlex.split(lists)[1:]) == 0
    assert meant in capsys.readouterr().out


def test_the_list_of_recorded_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "--list", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["schema"] == "accel-machines/1"
    assert [each["name"] for each in body["machines"]] == list(machines())
    assert {each["kind"] for each in body["machines"]} == {"reading", "composed"}
    assert main(["record", "--list", "--output", "x.json"]) == 2
    assert "--list with --output" in capsys.readouterr().err
