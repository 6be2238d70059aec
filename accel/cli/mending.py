"""`accel doctor`: what is wrong, and with `--fix` what can be done about it, asked for first."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

from accel import pipeline
from accel.cli.output import print_json, progress, quiet_log, write_whole
from accel.doctor import examine
from accel.doctor import mending as planning
from accel.errors import InputError
from accel.values import as_json as plain_data

UNHEALTHY = 1


def doctor(machine: str | None, *, fix: bool, yes: bool, env_file: Path, as_json: bool) -> int:
    """Examine, show, and mend if asked to; the exit code, 0 only where nothing is wrong (any more).

    Raises InputError where options do not go together, before anything is examined.
    """
    _check_options(machine, fix=fix, yes=yes, as_json=as_json)
    with progress("examining"), quiet_log():
        diagnosis = examine(pipeline.open_machine(machine))
    planned = planning.plan(diagnosis.findings, env_file) if fix else None
    if as_json:
        body = diagnosis.to_json()
        print_json(body if planned is None else {**body, "plan": plain_data(planned)})
    else:
        print(diagnosis)
    if diagnosis.healthy:
        return 0
    if planned is None:
        return UNHEALTHY
    return _mend(planned, yes=yes)


def _check_options(machine: str | None, *, fix: bool, yes: bool, as_json: bool) -> None:
    if fix and machine is not None:
        raise InputError(
            "a recorded machine cannot be mended",
            found="--fix with --machine",
            remedy=f"accel doctor --machine {machine}",
        )
    if yes and not fix:
        raise InputError(
            "--yes goes with --fix", found="--yes alone", remedy="accel doctor --fix --yes"
        )
    if fix and not yes and (as_json or not sys.stdin.isatty()):
        raise InputError(
            "nobody can be asked here whether to go on",
            found="--json" if as_json else "no terminal",
            remedy="accel doctor --fix --yes",
        )


def _mend(planned: planning.Plan, *, yes: bool) -> int:
    _say(f"\nplan\n{planned}")
    if not planned.does_something:
        _say("nothing of this can be done for you")
        return UNHEALTHY
    if not yes and input("go on? [y/N] ").strip().lower() not in ("y", "yes"):
        _say("nothing was changed")
        return UNHEALTHY
    write = functools.partial(write_whole, option="--env-file")
    if not planning.carry_out(planned, write=write, tell=_say):
        return UNHEALTHY
    # In a new interpreter: what was installed meanwhile is not what this one has imported.
    again = subprocess.run(
        [sys.executable, "-m", "accel", "doctor"],
        env=planning.child_environment(planned),
        stdout=sys.stderr,
        check=False,
    )
    return again.returncode


def _say(text: str) -> None:
    print(text, file=sys.stderr)
