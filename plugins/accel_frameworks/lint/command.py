"""`accel lint PATH`: where scripts assume CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

SCHEMA = "accel-lint/1"


def add_to(app: Any) -> None:
    """Register the command."""
    app.command("lint")(lint)


def lint(
    path: Annotated[Path, typer.Argument(help="A Python file, or a folder of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    only_left: Annotated[
        bool, typer.Option("--left", help="Only what accel cannot redirect.")
    ] = False,
) -> int:
    """List where a script assumes CUDA, the portable form, and what accel does there at run time.

    Nothing that is read is run. The exit code is 1 if something is found that accel cannot
    redirect, or a file that cannot be read.
    """
    from accel.cli.output import print_json, progress
    from accel_frameworks.lint import reading

    with progress(f"reading {path}"):
        count, findings, unread = reading.read(path)
    left = [one for one in findings if not one.fate.harmless]
    shown = left if only_left else findings
    if as_json:
        print_json(_document(count, shown, unread))
    else:
        print(_text(count, findings, shown, unread))
    return 1 if left or unread else 0


def _document(count: int, shown: list[Any], unread: list[Any]) -> dict[str, Any]:
    from accel.values import as_json

    return {
        "schema": SCHEMA,
        "files": count,
        "findings": [as_json(one) for one in shown],
        "unread": [as_json(one) for one in unread],
    }


def _text(count: int, findings: list[Any], shown: list[Any], unread: list[Any]) -> str:
    from collections import Counter

    from accel.cli.output import table

    lines = []
    if shown:
        rows = [
            (f"{one.path}:{one.line}:{one.column}", one.fate.value, one.found, one.portable)
            for one in shown
        ]
        lines.append(table(("where", "at run time", "found", "portable"), rows))
    lines += [f"{one.path}: cannot be read: {one.reason}" for one in unread]
    fates = Counter(one.fate.value for one in findings)
    told = ", ".join(f"{number} {fate}" for fate, number in sorted(fates.items()))
    files = "1 file" if count == 1 else f"{count} files"
    if unread:
        files = f"{count - len(unread)} of {files} read"
    lines.append(f"{files}: {told or 'nothing assumes CUDA'}")
    return "\n".join(lines)
