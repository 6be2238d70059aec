"""The `accel` command with bad input: errors for people, an exit code, and nothing half done."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from accel.cli import main
from accel.recording import SCHEMA

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
