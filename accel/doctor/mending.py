"""`accel doctor --fix`: what can be done about the findings, done after it was shown.

Only two kinds of command are carried out, and both only after they were understood word by word:
variables (`export NAME=value`, `unset NAME`), which go into a file that the user sources, and pip's
`install` and `uninstall` of named requirements, in the environment that accel runs in. No shell is
started. Everything else (drivers, containers, wheels from a vendor's folder) is left to the user.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from accel.errors import InputError
from accel.troubles import Finding
from accel.value import Value

_PIP_FLAGS = frozenset(
    [
        "--force-reinstall",
        "--no-deps",
        "--upgrade",
        "-U",
        "--no-build-isolation",
        "--no-cache-dir",
        "-y",
        "--yes",
    ]
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Step(Value):
    """One thing to do: variables to set or unset, or arguments of pip; both empty is by hand."""

    finding: Finding
    variables: tuple[tuple[str, str | None], ...] = ()
    pip: tuple[tuple[str, ...], ...] = ()

    @property
    def by_hand(self) -> bool:
        return not self.variables and not self.pip


class Plan(Value):
    """What `--fix` would do, in order; `env_file` is where variables go."""

    steps: tuple[Step, ...]
    env_file: str

    @property
    def does_something(self) -> bool:
        return any(not step.by_hand for step in self.steps)

    def __str__(self) -> str:
        lines = []
        for step in self.steps:
            lines += [f"{step.finding.subject}: {step.finding.evidence}"]
            if step.by_hand:
                lines.append(f"  by hand   {step.finding.command}")
            lines += [f"  run       pip {shlex.join(arguments)}" for arguments in step.pip]
            lines += [
                f"  set       {_line(name, value)}   (in {self.env_file})"
                for name, value in step.variables
            ]
        return "\n".join(lines)


def plan(findings: Iterable[Finding], env_file: Path) -> Plan:
    """What can be done about findings. The same command is carried out once."""
    folder = str(env_file.absolute().parent)
    steps: list[Step] = []
    done: set[str] = set()
    for finding in findings:
        command = finding.command.replace("{folder}", shlex.quote(folder))
        if command in done:
            continue
        done.add(command)
        variables = _variables(command)
        pip = () if variables else _pip(command)
        steps.append(Step(finding=finding, variables=variables, pip=pip))
    return Plan(steps=tuple(steps), env_file=str(env_file))


def _variables(command: str) -> tuple[tuple[str, str | None], ...]:
    """`export A=b C=d` or `unset A B`, and nothing that a shell would expand."""
    words = _words(command)
    if len(words) < 2 or words[0] not in ("export", "unset"):
        return ()
    found: list[tuple[str, str | None]] = []
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not _NAME.fullmatch(name) or bool(equals) != (words[0] == "export"):
            return ()
        found.append((name, value if equals else None))
    return tuple(found)


def _pip(command: str) -> tuple[tuple[str, ...], ...]:
    """The arguments of one or several (`&&`) commands of pip; empty where any is not plain."""
    found = []
    for part in command.split("&&"):
        words = _words(part)
        if len(words) < 3 or words[0] != "pip" or words[1] not in ("install", "uninstall"):
            return ()
        if not all(word in _PIP_FLAGS or _is_requirement(word) for word in words[2:]):
            return ()
        found.append(tuple(words[1:]))
    return tuple(found)


def _words(command: str) -> list[str]:
    if any(character in command for character in "`$;|<>#\n\\") and not _quoted_safely(command):
        return []
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _quoted_safely(command: str) -> bool:
    """Whether what a shell would act on stands in quotes, as the `>` of a version range does."""
    bare = re.sub(r"'[^']*'|\"[^\"`$\\]*\"", "", command)
    return not any(character in bare for character in "`$;|<>#\n\\'\"")


def _is_requirement(word: str) -> bool:
    """A requirement by name: no option, file or address, which might bring anything."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        parsed = Requirement(word)
    except InvalidRequirement:
        return False
    return parsed.url is None and not word.endswith((".whl", ".gz", ".zip"))


# Doing it --------------------------------------------------------------------------------------


def run_pip(arguments: Sequence[str]) -> int:
    """Run pip of this environment; its exit code. It talks on stderr: stdout may be JSON."""
    command = [sys.executable, "-m", "pip", *arguments]
    quiet = subprocess.DEVNULL
    return subprocess.run(command, check=False, stdin=quiet, stdout=sys.stderr).returncode


def carry_out(
    planned: Plan,
    *,
    write: Callable[[Path, str], None],
    pip: Callable[[Sequence[str]], int] = run_pip,
    tell: Callable[[str], None] = print,
) -> bool:
    """Do what the plan says: files and variables first, then pip, until one of its runs fails.

    `write` writes a whole file or none of it. False where pip failed. Raises InputError, with
    nothing done, where the file of variables is there and cannot be read.
    """
    env_file = Path(planned.env_file)
    variables = [pair for step in planned.steps for pair in step.variables]
    text = _with(_present(env_file), variables) if variables else ""
    for step in planned.steps:
        if not step.by_hand:
            for name, body in step.finding.files.items():
                write(env_file.absolute().parent / name, body)
    if variables:
        write(env_file, text)
        tell(f"wrote {env_file}; in the shell that trains: source {env_file}")
    for step in planned.steps:
        for arguments in step.pip:
            tell(f"pip {shlex.join(arguments)}")
            code = pip(arguments)
            if code != 0:
                tell(f"pip ended with exit code {code}; what comes after it was left alone")
                return False
    return True


def variables_in(planned: Plan) -> dict[str, str | None]:
    """What the file of variables will set, None for what it unsets."""
    return dict(pair for step in planned.steps for pair in step.variables)


def _present(path: Path) -> str:
    """The text of the file of variables, empty where there is none yet.

    Raises InputError for one that cannot be read: it would be written over.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is there and cannot be read, so it is left as it is",
            found=getattr(error, "strerror", None) or str(error),
            remedy="--env-file with another path",
        ) from None


def _with(text: str, variables: Iterable[tuple[str, str | None]]) -> str:
    """The file's text with these variables in it.

    Lines that set one of them and nothing else give way; all others, the user's own, stay, and
    the new ones come after them.
    """
    changes = dict(variables)
    kept = [
        line
        for line in text.splitlines()
        if len(own := _variables(line)) != 1 or own[0][0] not in changes
    ]
    if not kept:
        kept = ["# Written by `accel doctor --fix`. In the shell that trains, source this file."]
    return "\n".join([*kept, *(_line(name, value) for name, value in changes.items())]) + "\n"


def _line(name: str, value: str | None) -> str:
    return f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"


def child_environment(planned: Plan) -> dict[str, str]:
    """This process's environment as the file of variables will make it."""
    changes = variables_in(planned)
    kept = {name: value for name, value in os.environ.items() if name not in changes}
    return {**kept, **{name: value for name, value in changes.items() if value is not None}}
