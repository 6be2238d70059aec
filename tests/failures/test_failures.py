"""Every failure of failures.md: red without accel, green with it, red again after revert().

`make test` runs what this environment can reproduce, `make test-failures` all of it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from failure import HERE, ORDINARY, Case, cases, environments, folder_of
from sharing import once, shared_folder

ALL = os.environ.get("ACCEL_FAILURES") == "1"
SECONDS = 280
FORGET = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def python_of(environment: str) -> str:
    """The Python of an environment, or a skip that says how to get it."""
    found = folder_of(environment) / "bin" / "python"
    if environment != ORDINARY and not ALL:
        pytest.skip(f"needs the environment {environment}: make test-failures")
    assert found.is_file(), f"no environment {environment}: make test-failures makes it"
    return str(found)


def surroundings(
    environment: str, folder: Path, by_hand: bool = False, **more: str
) -> dict[str, str]:
    """What a child sees: nothing of accel but what is said here, no network, one thread."""
    hiding = [str(HERE / "by_hand")] if by_hand else []
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ACCEL_") and name not in FORGET
    }
    return {
        **kept,
        # as in an activated environment
        "PATH": os.pathsep.join([str(folder_of(environment) / "bin"), os.environ["PATH"]]),
        "HF_HUB_OFFLINE": "1",
        "WANDB_DISABLED": "true",
        "OMP_NUM_THREADS": "1",
        "ACCEL_CACHE_DIR": str(folder / "probes"),
        "ACCEL_DEVICE": "cpu",
        "ACCEL_PROBE": "0",
        "PYTHONPATH": os.pathsep.join([str(HERE), *hiding]),
        **(environments().get(environment, {}).get("variables", {})),
        **more,
    }


def results(environment: str, folder: Path) -> dict[str, Any]:
    """What became of the cases of one environment, all run in one process, once."""
    python_of(environment)
    found: dict[str, Any] = once(
        folder / f"cases-{environment}.json", lambda: _run(environment, folder)
    )
    return found


def _run(environment: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [python_of(environment), str(HERE / "runner.py"), environment],
        cwd=folder,
        env=surroundings(environment, folder, by_hand=True),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory)


def those(wanted: Callable[[Case], bool]) -> Any:
    return pytest.mark.parametrize("case", [c for c in cases() if wanted(c)], ids=lambda c: c.name)


@pytest.mark.slow
@those(lambda case: case.body is not None)
def test_it_fails_without_accel_and_not_with_it(case: Case, folder: Path) -> None:
    outcome = results(case.environment, folder)[case.name]
    assert case.error in outcome["without"]
    assert outcome["with"] == "ok"
    assert case.error in outcome["reverted"], "revert() leaves nothing behind"


@pytest.mark.slow
@those(lambda case: bool(case.script))
def test_a_program_fails_without_accel_and_not_under_accel_run(
    case: Case, tmp_path: Path, training_yaml: Callable[..., Path]
) -> None:
    if case.long and not ALL:
        pytest.skip("takes too long: make test-failures")
    python = python_of(case.environment)
    script = tmp_path / "program.py"
    script.write_text(case.script, encoding="utf-8")
    job = training_yaml()
    arguments = [str(job) if word == "TRAIN_YAML" else word for word in case.arguments]

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, *command, str(script), *arguments],
            cwd=tmp_path,
            env=surroundings(case.environment, tmp_path, case.by_hand, **case.variables),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    without = run()
    assert without.returncode != 0
    assert case.error in without.stderr
    repaired = run("-m", "accel", "run")
    assert repaired.returncode == 0, repaired.stderr
    for line in case.said:
        assert line in repaired.stderr
