"""The flag table with a two-layer model, in one process a mode; `make flags` has the real one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flags
from failure import HERE, environments
from fw_support import needs
from sharing import once, shared_folder
from test_failures import ALL, SECONDS, python_of, surroundings
from tiny_training import write_job

pytestmark = [pytest.mark.slow, needs("llamafactory")]
QUICK = [row for row in flags.ROWS if not row.program]


def outcomes(environment: str, mode: str, folder: Path) -> dict[str, Any]:
    """What the rows of an environment came to, all in one process, once."""
    python_of(environment)
    found: dict[str, Any] = once(
        folder / f"flags-{environment}-{mode}.json", lambda: _run(environment, mode, folder)
    )
    return found


def _run(environment: str, mode: str, folder: Path) -> dict[str, Any]:
    own = folder / f"{environment}-{mode}"
    own.mkdir()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    job["output_dir"] = str(own / "out")
    (own / "job.json").write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [python_of(environment), str(HERE / "flag_runner.py"), environment, "job.json", mode],
        cwd=own,
        env=surroundings(
            environment, folder, by_hand=mode == "without", LLAMAFACTORY_VERBOSITY="ERROR"
        ),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Where the job is, as JSON, with its data; one for all workers."""
    made = shared_folder(tmp_path_factory)

    def write() -> dict[str, Any]:
        job: dict[str, Any] = json.loads(write_job(made, tiny_model, max_steps=2).read_text())
        return job

    once(made / "job.json", write)
    return made


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_a_flag_is_had_replaced_or_refused_and_never_ignored(row: flags.Row, folder: Path) -> None:
    found = outcomes(row.environment, "auto", folder)[row.name]
    if row.after == flags.TRAINS:
        assert found["outcome"] == "ok"
        assert any(row.said in line for line in found["said"]) or not row.said
        assert bool(found["said"]) == bool(row.said), "nothing is silent, and nothing is chatter"
    else:
        assert "CapabilityUnavailable" in found["outcome"]
        assert row.said in found["outcome"]
        assert "try:" in found["outcome"]


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_under_strict_it_is_had_or_refused_with_the_reason(row: flags.Row, folder: Path) -> None:
    found = outcomes(row.environment, "strict", folder)[row.name]
    if row.strict == flags.TRAINS:
        assert found["outcome"] == "ok"
    else:
        assert "CapabilityUnavailable" in found["outcome"]
    assert not [line for line in found["said"] if " was asked for, " in line]


@pytest.mark.skipif(not ALL, reason="make test-failures")
@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.name)
def test_what_it_is_without_accel(row: flags.Row, folder: Path) -> None:
    found = outcomes(row.environment, "without", folder)[row.name]
    if row.before:
        assert row.before in found["outcome"]
    else:
        assert found["outcome"] == "ok"


def test_every_environment_is_declared() -> None:
    known: Callable[[str], bool] = {"test", *environments()}.__contains__
    assert all(known(row.environment) for row in flags.ROWS)
