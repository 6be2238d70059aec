"""`accel conformance`: the suite on one installed plugin."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from accel.cli import options
from accel.cli.output import colored, print_json, quiet_log, write_whole

if TYPE_CHECKING:
    from accel.testing.conformance import Result, Rule

BEAT = 2.0
"""Seconds between two lines on what is being done, within a rule."""


def conformance(
    plugin: Annotated[str, typer.Argument(help="The plugin's name, as accel plugins lists it.")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="RULE", help="This rule or group, as often as wanted."),
    ] = None,
    device: options.DeviceName = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML too.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Write the JSON to a file too.")
    ] = None,
    as_json: options.AsJson = False,
) -> int:
    """Test an installed plugin: every rule that can be tested here, and what it found.

    Ends with 0 only where all passed, or failed as the plugin's conformance.toml foretells.
    """
    from accel.testing.conformance import rendering, run

    with _progress() as (tell, done), quiet_log():
        outcome = run(plugin, only=only or (), device=device, tell=tell, done=done)
    if junit is not None:
        write_whole(junit, rendering.junit(outcome))
    if save is not None:
        write_whole(save, outcome.text())
    if as_json:
        print_json(outcome.to_json())
    else:
        print(rendering.table(outcome, color=colored(sys.stdout)))
    return 0 if outcome.ok else 1


def matrix(
    results: Annotated[
        Path, typer.Option("--results", metavar="FOLDER", help="Results that --save wrote.")
    ] = Path("docs/results"),
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The Markdown page.")
    ] = Path("docs/support.md"),
    html: Annotated[Path, typer.Option("--html", metavar="FILE", help="The HTML page.")] = Path(
        "docs/support.html"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; 1 where a page is not up to date.")
    ] = False,
    as_json: options.AsJson = False,
) -> int:
    """Write the support matrix from conformance results: what passed, not what was claimed."""
    from accel.testing.conformance.matrix import build, read, render

    built = build(read(results))
    pages = {output: render(built, "md"), html: render(built, "html")}
    if as_json:
        print_json({"schema": "accel-matrix/1", **dataclasses.asdict(built)})
        return 0
    stale = [path for path, text in pages.items() if not _holds(path, text)]
    for path in stale:
        if not check:
            write_whole(path, pages[path])
        print(f"accel: {'not up to date' if check else 'wrote'}: {path}", file=sys.stderr)
    return 1 if check and stale else 0


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


Tell = Callable[[str], None]


@contextlib.contextmanager
def _progress() -> Iterator[tuple[Tell, Callable[[Rule, Sequence[Result]], None]]]:
    """A line on stderr for each rule when it is done, and every so often while it is not."""
    from accel.testing.conformance import rendering

    started = last = time.monotonic()

    def say(text: str) -> None:
        nonlocal last
        last = time.monotonic()
        print(f"accel: {last - started:4.0f} s  {text}", file=sys.stderr, flush=True)

    def tell(line: str) -> None:
        if time.monotonic() - last > BEAT:
            say(line)

    def done(rule: Rule, results: Sequence[Result]) -> None:
        say(f"{rule.id:<16} {rendering.verdict(results)}")

    yield tell, done
