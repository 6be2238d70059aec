"""`accel conformance`: the suite on one installed plugin."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.cli import INTERRUPTED, options
from accel.cli.output import colored, print_json, quiet_log, write_whole

if TYPE_CHECKING:
    from accel.testing.conformance import Conformance, Result, Rule
    from accel.testing.conformance.suite import Course

BEAT = 2.0
"""Seconds between two lines on what is being done, within a rule."""
SHARE = 0.05
"""Of the time, at most, goes into writing results while others are still to come."""
TERMINATED = 128 + int(signal.SIGTERM)


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
    draft: Annotated[
        Path | None,
        typer.Option(
            "--draft",
            metavar="FILE",
            help="Write what failed as entries for conformance.toml, their reasons left open.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> int:
    """Test an installed plugin: every rule that can be tested here, and what it found.

    Ends with 0 only where all passed, or failed as the plugin's conformance.toml foretells. Files
    are written as results come, and marked incomplete until the end.
    """
    from accel.testing.conformance import expected, rendering
    from accel.testing.conformance.suite import Course, Suite, chosen

    rules, kept, stopped = chosen(only or ()), _Kept(junit, save), 0
    with quiet_log(), _progress() as (tell, done), _termination_interrupts():
        course = Course(Suite(plugin, device=device, tell=tell), rules, tell=tell)

        def through(rule: Rule, results: Sequence[Result]) -> None:
            done(rule, results)
            kept.write(course.outcome)

        try:
            kept.write(course.outcome)  # before minutes of work: a path that cannot be written
            for _ in course.results(through):
                kept.write_soon(course)
        except KeyboardInterrupt as interrupt:
            stopped = TERMINATED if isinstance(interrupt, _Terminated) else INTERRUPTED
    outcome = course.outcome
    try:
        kept.write(outcome)
        if draft is not None:
            where = {rule.id: outcome.how for rule in rules if rule.needs == "device"}
            write_whole(draft, expected.draft(outcome.results, where), option="--draft")
    finally:
        if as_json:
            print_json(outcome.to_json())
        else:
            print(rendering.table(outcome, color=colored(sys.stdout)))
    return stopped or (0 if outcome.ok else 1)


class _Kept:
    """The files that results are kept in, each of them whole whenever it is read."""

    def __init__(self, junit: Path | None, save: Path | None) -> None:
        self._junit = junit
        self._save = save
        self._rest_until = 0.0

    def write(self, outcome: Conformance) -> None:
        from accel.testing.conformance import rendering

        begin = time.monotonic()
        if self._junit is not None:
            write_whole(self._junit, rendering.junit(outcome), option="--junit")
        if self._save is not None:
            write_whole(self._save, outcome.text(), option="--save")
        now = time.monotonic()
        self._rest_until = now + (now - begin) / SHARE

    def write_soon(self, course: Course) -> None:
        """Unless it was done a moment ago."""
        if time.monotonic() >= self._rest_until:
            self.write(course.outcome)


class _Terminated(KeyboardInterrupt):
    """Asked to end by a signal, as `timeout` and batch systems do."""


@contextlib.contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Within it, SIGTERM interrupts as Ctrl-C does, so that what was found is not lost."""

    def interrupt(number: int, frame: Any) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    if check and stale:
        print("  try:   accel matrix, with the same options but --check", file=sys.stderr)
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
