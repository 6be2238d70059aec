"""The results as a table for people, as JUnit XML, and in one line."""

from __future__ import annotations

import io
import shutil
import xml.etree.ElementTree as Tree
from collections.abc import Sequence
from typing import Any

from accel.testing.conformance.results import BAD, Conformance, Result
from accel.testing.conformance.rules import BY_ID, RULES

_STYLES = {
    "passed": "green",
    "failed": "bold red",
    "unexpected": "bold red",
    "expected": "yellow",
    "skipped": "dim",
    "unfinished": "bold yellow",
    "not run": "bold yellow",
}
WIDTH = 100
SHOWN = 12
"""Lines on one rule that the table has; the rest is counted, and in JSON and JUnit XML."""


def verdict(results: Sequence[Result]) -> str:
    """What became of a rule: the worst of its cases; passed only where one of them did."""
    statuses = {result.status for result in results}
    order = ("failed", "unexpected", "passed", "expected", "skipped")
    return next((status for status in order if status in statuses), "skipped")


def _became(outcome: Conformance, rule: str) -> str:
    """The verdict, or that there is none: no good one is given before a rule is done."""
    found = outcome.of(rule)
    what = verdict(found)
    if rule in outcome.unfinished and what not in BAD:
        return "unfinished" if found else "not run"
    return what


def table(outcome: Conformance, *, color: bool, width: int | None = None) -> str:
    """A row for each rule, then the cases that are not simply passed, each with its reason."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    stream = io.StringIO()
    console = Console(
        file=stream,
        force_terminal=color,
        no_color=not color,
        width=width or max(WIDTH, shutil.get_terminal_size().columns),
        highlight=False,
    )
    rules = Table(box=None, pad_edge=False, title=_title(outcome), title_justify="left")
    for heading in ("rule", "result", "cases", "what"):
        rules.add_column(heading, no_wrap=heading != "what")
    for rule in RULES:
        found = outcome.of(rule.id)
        if found or rule.id in outcome.unfinished:
            what = _became(outcome, rule.id)
            rules.add_row(rule.id, f"[{_STYLES[what]}]{what}[/]", _counted(found), rule.says)
    console.print(rules)
    for detail, ids in _not_asked(outcome).items():
        text = f"{'skipped':<10} {', '.join(ids)}: {detail}"
        console.print(f"[{_STYLES['skipped']}]{escape(text)}[/]", soft_wrap=True)
    for rule in RULES:
        _cases(console, [r for r in outcome.of(rule.id) if r.status != "passed" and not _all(r)])
    console.print(summary(outcome), style="bold" if outcome.ok else "bold red")
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _all(result: Result) -> bool:
    """Whether it stands for its whole rule, which was skipped."""
    return result.status == "skipped" and not result.case


def _not_asked(outcome: Conformance) -> dict[str, list[str]]:
    """Rules that were skipped as a whole, by the reason, which many of them share."""
    found: dict[str, list[str]] = {}
    for result in outcome.results:
        if _all(result):
            found.setdefault(result.detail, []).append(result.rule)
    return found


def _cases(console: Any, results: Sequence[Result]) -> None:
    """A line for each thing that there is to say, with the first case it is true of."""
    from rich.markup import escape

    ordered = sorted(results, key=lambda r: (r.status not in BAD, r.status == "skipped"))
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in ordered:
        groups.setdefault((result.status, result.reason or result.detail), []).append(result)
    for number, group in enumerate(groups.values()):
        if number == SHOWN:
            left = sum(len(group) for group in list(groups.values())[SHOWN:])
            console.print(f"  and {left} more of {group[0].rule}", style="dim")
            return
        first = group[0]
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        said = (first.status == "expected" and first.reason) or first.detail
        text = f"{first.status:<10} {first.name}{more}: {said}"
        console.print(f"[{_STYLES[first.status]}]{escape(text)}[/]", soft_wrap=True)


def _title(outcome: Conformance) -> str:
    origin = f"{outcome.distribution} {outcome.version}".strip()
    return f"{outcome.plugin} ({origin}), {_where(outcome)}"


def _where(outcome: Conformance) -> str:
    if outcome.device is None:
        return "recorded machines only: no such device here"
    return f"{outcome.device['name']} ({outcome.device['arch']}), {outcome.how}"


def _counted(results: Sequence[Result]) -> str:
    passed = sum(result.status == "passed" for result in results)
    return f"{passed}/{len(results)}"


def summary(outcome: Conformance) -> str:
    """One line: how many of each."""
    words = {
        "passed": "passed",
        "expected": "failed as expected",
        "skipped": "skipped",
        "failed": "failed",
        "unexpected": "passed unexpectedly",
    }
    counted = [f"{n} {words[name]}" for name in words if (n := outcome.counts.get(name, 0))]
    line = f"{outcome.plugin}: {', '.join(counted) or 'nothing ran'}"
    if outcome.complete:
        return line
    return f"{line}; STOPPED with {len(outcome.unfinished)} rules not done: this counts for nothing"


def junit(outcome: Conformance) -> str:
    """JUnit XML: a test suite for each rule, a test case for each case.

    What is not done is an error, so that no reader takes an incomplete file for a pass.
    """
    root = Tree.Element("testsuites", name=f"accel conformance {outcome.plugin}")
    _count(root, outcome.results, len(outcome.unfinished))
    for rule in (rule for rule in BY_ID if outcome.of(rule)):
        suite = _suite(root, outcome, rule, outcome.of(rule))
        for result in outcome.of(rule):
            _case(suite, outcome.plugin, result)
    if not outcome.complete:
        suite = _suite(root, outcome, "unfinished", (), len(outcome.unfinished))
        for rule in outcome.unfinished:
            case = Tree.SubElement(
                suite, "testcase", classname=f"{outcome.plugin}.unfinished", name=rule, time="0.000"
            )
            message = "the run goes on, or was stopped before this"
            Tree.SubElement(case, "error", message=message, type="unfinished")
    Tree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Tree.tostring(root, "unicode") + "\n"


def _suite(
    root: Tree.Element,
    outcome: Conformance,
    name: str,
    results: Sequence[Result],
    errors: int = 0,
) -> Tree.Element:
    """A test suite that says where it ran, and with what."""
    suite = Tree.SubElement(root, "testsuite", name=f"{outcome.plugin}.{name}")
    _count(suite, results, errors)
    properties = Tree.SubElement(suite, "properties")
    said = {"plugin": f"{outcome.distribution} {outcome.version}", "where": _where(outcome)}
    for key, value in {**said, "date": outcome.date, **outcome.versions}.items():
        Tree.SubElement(properties, "property", name=key, value=_printable(value))
    return suite


def _count(element: Tree.Element, results: Sequence[Result], errors: int) -> None:
    element.set("tests", str(len(results) + errors))
    element.set("failures", str(sum(r.status in BAD for r in results)))
    element.set("skipped", str(sum(r.status in ("skipped", "expected") for r in results)))
    element.set("errors", str(errors))
    element.set("time", f"{sum(r.seconds for r in results):.3f}")


def _case(suite: Tree.Element, plugin: str, result: Result) -> None:
    case = Tree.SubElement(
        suite,
        "testcase",
        classname=f"{plugin}.{result.rule}",
        name=_printable(result.case or result.rule),
        time=f"{result.seconds:.3f}",
    )
    detail = _printable(result.detail)
    if result.status in BAD:
        Tree.SubElement(case, "failure", message=detail, type=result.status).text = detail
    elif result.status == "expected":
        message = _printable(f"expected to fail: {result.reason}")
        Tree.SubElement(case, "skipped", message=message, type="xfail").text = detail
    elif result.status == "skipped":
        Tree.SubElement(case, "skipped", message=detail, type="skip")
    elif detail:
        Tree.SubElement(case, "system-out").text = detail


def _printable(text: str) -> str:
    """XML has no place for most control characters."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
