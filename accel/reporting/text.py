"""A report for a terminal, 100 columns wide."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable

from accel.reporting.content import Change, Content, Row
from accel.values import Level, Note

WIDTH = 100
_BOLD, _DIM, _RED, _GREEN, _YELLOW = "1", "2", "31", "32", "33"
_LEVEL_COLORS = {Level.ERROR: _RED, Level.WARNING: _YELLOW, Level.DOWNGRADE: _YELLOW}
_STATE_COLORS = {"applied": _GREEN, "failed": _RED, "skipped": _YELLOW}


class _Pen:
    """Colours, or none. Text is coloured after it is laid out, so that columns stay straight."""

    def __init__(self, color: bool) -> None:
        self._color = color

    def __call__(self, text: str, code: str | None) -> str:
        return f"\033[{code}m{text}\033[0m" if self._color and code else text


def text(content: Content, *, color: bool = False, brief: bool = False) -> str:
    """The report, without the single decisions if `brief`; ends without a newline."""
    pen = _Pen(color)
    groups, sources = ((), ()) if brief else (content.groups, content.sources)
    sections = [
        [pen(content.title, _BOLD), *_pairs(content.facts)],
        ["", pen("Chosen", _BOLD), *_choices(content)],
        *(["", pen(f"Decisions: {name}", _BOLD), *_table(rows, pen)] for name, rows in groups),
        _changes(content.changes, pen),
        _notes(content.notes, pen),
        _failures(content.failures, pen),
        _sources(sources, pen),
    ]
    return "\n".join(line for section in sections for line in section)


def _wrapped(prefix: str, body: str) -> list[str]:
    """`body` wrapped to the width, after `prefix` and under its end."""
    return textwrap.wrap(
        body,
        WIDTH,
        initial_indent=prefix,
        subsequent_indent=" " * len(prefix),
        break_on_hyphens=False,
        break_long_words=False,
    ) or [prefix.rstrip()]


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [line for label, body in pairs for line in _wrapped(f"  {label:<11} ", body)]


def _choices(content: Content) -> list[str]:
    lines = []
    width = max(len(choice.name) for choice in content.choices if "," not in choice.name)
    for choice in content.choices:
        if "," in choice.name:
            lines += _wrapped(f"  {choice.feature:<11} ", f"{choice.name} ({choice.reason})")
        else:
            lines += _wrapped(f"  {choice.feature:<11} {choice.name:<{width}}  ", choice.reason)
    return lines


def _table(rows: tuple[Row, ...], pen: _Pen) -> list[str]:
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        mark = "*" if row.chosen else " "
        head = f"{mark} {row.name:<{width}}  "
        prefix = f"{head}{row.verdict}  {row.stage:<9}  "
        source = f" [{row.source}]" if row.source else ""
        first, *rest = _wrapped(prefix, row.reason + source)
        verdict = pen(row.verdict, _GREEN if row.accepted else _RED)
        lines += [head + verdict + first[len(head) + len(row.verdict) :], *rest]
    return lines


def _changes(changes: tuple[Change, ...], pen: _Pen) -> list[str]:
    if not changes:
        return []
    counts = Counter(change.state for change in changes)
    summary = ", ".join(f"{number} {state}" for state, number in counts.items())
    lines = ["", pen(f"Patches: {summary}", _BOLD)]
    for change in changes:
        lines.append(
            f"  {pen(f'{change.state:<8}', _STATE_COLORS.get(change.state))}  {change.target}"
        )
        until = f"until {change.until}" if change.until else ""
        for body in (change.why, change.detail, change.upstream, until):
            lines += _wrapped(" " * 12, body) if body else []
    return lines


def _notes(notes: tuple[Note, ...], pen: _Pen) -> list[str]:
    if not notes:
        return []
    lines = ["", pen("Notes", _BOLD)]
    for note in notes:
        head = f"  {note.level.value:<9}  "
        first, *rest = _wrapped(head, f"{note.subject}: {note.message}")
        lines += [pen(head, _LEVEL_COLORS.get(note.level)) + first[len(head) :], *rest]
        lines += _wrapped(" " * len(head), f"try: {note.remedy}") if note.remedy else []
    return lines


def _failures(failures: tuple[tuple[str, str], ...], pen: _Pen) -> list[str]:
    if not failures:
        return []
    body = [line for origin, what in failures for line in _wrapped("  ", f"{origin} {what}")]
    return ["", pen("Plugins left out", _BOLD), *body]


def _sources(sources: tuple[str, ...], pen: _Pen) -> list[str]:
    if not sources:
        return []
    numbered = enumerate(sources, 1)
    body = [line for number, source in numbered for line in _wrapped(f"  [{number}] ", source)]
    return ["", pen("Sources", _BOLD), *body]
