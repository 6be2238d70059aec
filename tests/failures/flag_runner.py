"""Runs the rows of the flag table that need no process of their own, one after the other.

    python flag_runner.py ENVIRONMENT JOB.json [MODE [ROW ...]]  ->  JSON on the last line

MODE is `auto` (the default), `strict`, or `without`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import flags
from runner import attempt


def through_the_command(options: dict[str, Any], path: Path) -> None:
    """What `accel llamafactory train` does once accel is in force."""
    from accel_frameworks import llamafactory_command

    path.write_text(json.dumps(options), encoding="utf-8")  # JSON is YAML
    arguments = ["train", str(path)]
    llamafactory_command.check(arguments)
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        code = llamafactory_command.run(arguments)
    print(told.getvalue(), file=sys.stderr)
    assert code == 0, told.getvalue()


def quantised(model: str, folder: Path) -> str:
    """The model as AWQ, made once, in a process of its own."""
    if not folder.exists():
        command = [sys.executable, "-m", "accel", "quantize", model, "--output", str(folder)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return str(folder)


def train(job: dict[str, Any], row: flags.Row, *, repaired: bool) -> None:
    """One training in this process; raises where it fails, or leaves nothing behind."""
    from llamafactory.train.tuner import run_exp

    output = Path(job["output_dir"])
    shutil.rmtree(output, ignore_errors=True)
    options = {**job, **row.flags}
    if options[flags.MODEL] == flags.AWQ:
        options[flags.MODEL] = quantised(job[flags.MODEL], output.parent / "awq")
    if not options["do_train"]:
        options.pop("max_steps")
        options["max_samples"] = 2
    if repaired:
        through_the_command(options, output.parent / "row.yaml")
    else:
        run_exp(options)
    wanted = "trainer_state.json" if options["do_train"] else "generated_predictions.jsonl"
    assert (output / wanted).is_file(), f"no {wanted}"


def main(environment: str, job_file: str, mode: str = "auto", *names: str) -> None:
    """Each row, or those named: what it came to, and what is new in the report with it."""
    warnings.simplefilter("ignore")
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    results: dict[str, Any] = {}
    report = None
    if mode != "without":
        import accel

        report = accel.auto(strict=mode == "strict")
    importlib.import_module("llamafactory.train.tuner")  # what it says of itself is no flag's
    for row in flags.ROWS:
        if row.environment != environment or row.program or (names and row.name not in names):
            continue
        before = len(report.notes) if report is not None else 0
        kept = dict(os.environ)  # fp8 leaves its precision behind, for the next training
        outcome = attempt(lambda row=row: train(job, row, repaired=report is not None))
        os.environ.clear()
        os.environ.update(kept)
        notes = report.notes[before:] if report is not None else ()
        results[row.name] = {
            "outcome": outcome,
            "said": [f"{note.subject}: {note.message}" for note in notes],
        }
        print(row.name, results[row.name], file=sys.stderr, flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
