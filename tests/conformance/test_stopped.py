"""A run that is stopped: what it found is kept and shown, and counts for nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as Tree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from accel.errors import InputError
from accel.testing.conformance import Conformance, Result
from accel.testing.conformance.matrix import read
from accel.testing.conformance.rendering import table
from world import SOUND, accel, environment, install

SLOW = SOUND.replace("accel.probes:matmul", "accel_ace.probing:slow")
PATIENCE = 60.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`accel conformance ace`, where it hangs in the middle: in a probe that never ends."""
    install(
        tmp_path,
        SLOW,
        more={"probing.py": "import time\ndef slow(device, dtype):\n    time.sleep(900)\n"},
    )
    words = ["--only", "load", "--only", "probe", "--save", "r.json", "--junit", "j.xml"]
    child = subprocess.Popen(
        [sys.executable, "-m", "accel", "conformance", "ace", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path),
    )
    try:
        _wait_for(lambda: "probe.declared" in _ids(tmp_path / "r.json", "results"))
        yield child
    finally:
        child.kill()
        child.communicate()


def _wait_for(happened: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _ids(file: Path, part: str) -> list[str]:
    """Always a whole document, whenever it is read."""
    if not file.exists():
        return []
    return [
        one if isinstance(one, str) else one["rule"] for one in json.loads(file.read_text())[part]
    ]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_what_was_found_until_then_is_kept_and_counts_for_nothing(
    running: subprocess.Popen[str], number: signal.Signals, code: int, tmp_path: Path
) -> None:
    _wait_for(psutil.Process(running.pid).children)
    busy = psutil.Process(running.pid).children()
    running.send_signal(number)
    stdout, _ = running.communicate(timeout=PATIENCE)
    assert not psutil.wait_procs(busy, timeout=PATIENCE)[1]
    assert running.returncode == code
    kept = Conformance.from_json(json.loads((tmp_path / "r.json").read_text()))
    assert {r.rule for r in kept.results} == {
        "load.hooks",
        "load.light",
        "load.time",
        "probe.declared",
    }
    assert all(result.status == "passed" for result in kept.results)
    assert kept.unfinished == ("probe.fails", "probe.passes")
    assert not kept.complete
    assert not kept.ok
    errors = Tree.parse(tmp_path / "j.xml").getroot().findall(".//testcase/error/..")
    assert [case.get("name") for case in errors] == ["probe.fails", "probe.passes"]
    with pytest.raises(InputError, match="was stopped, and counts for nothing") as caught:
        read(tmp_path)
    assert "probe.fails, probe.passes" in str(caught.value.found)
    assert caught.value.remedy == f"accel conformance ace --save {tmp_path / 'r.json'}"
    assert not list(tmp_path.glob(".*.part"))
    if code > 0:
        assert stdout.splitlines()[-1] == (
            "ace: 5 passed; STOPPED with 2 rules not done: this counts for nothing"
        )
        (row,) = (line for line in stdout.splitlines() if line.startswith("probe.fails"))
        assert "not run" in row


def test_a_rule_that_is_not_done_has_not_passed() -> None:
    result = Result(rule="claim.only", case="box", status="passed", detail="", seconds=0.1)
    kept = Conformance(
        plugin="ace",
        distribution="accel-ace",
        version="1.0",
        how="recorded",
        device=None,
        versions={},
        date="2026-01-01",
        results=(result,),
        unfinished=("claim.only", "claim.values"),
    )
    assert Conformance.from_json(json.loads(kept.text())) == kept
    rows = table(kept, color=False).splitlines()
    assert [row.split()[:2] for row in rows if row.startswith("claim")] == [
        ["claim.only", "unfinished"],
        ["claim.values", "not"],
    ]


@pytest.mark.parametrize("option", ["--save", "--junit"])
def test_a_file_that_cannot_be_written_is_said_before_anything_runs(
    option: str, tmp_path: Path
) -> None:
    done = accel(install(tmp_path), "conformance", "ace", option, "nowhere/r.json")
    assert done.returncode == 2
    assert "nowhere/r.json cannot be written" in done.stderr
    assert f"{option} with a path" in done.stderr
    assert "passed" not in done.stderr + done.stdout


def test_a_file_that_is_there_stays_until_there_is_something_to_put_in_its_place(
    tmp_path: Path,
) -> None:
    install(tmp_path)
    (tmp_path / "r.json").write_text("mine")
    done = accel(tmp_path, "conformance", "ace", "--only", "loud", "--save", "r.json")
    assert done.returncode == 2
    assert (tmp_path / "r.json").read_text() == "mine"
