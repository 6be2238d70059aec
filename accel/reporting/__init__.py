"""Views of a Plan or a Report: text for terminals, Markdown, HTML for notebooks, JSON.

All of them show the same `Content` and differ in form alone. They are deterministic: no times, no
paths of accel's own, nothing that is not in the plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accel.errors import InputError
from accel.reporting.content import EntryLike, compose

if TYPE_CHECKING:
    from accel.planning import Plan
    from accel.report import Report
    from accel.values import Note

__all__ = ["FORMATS", "as_dict", "as_html", "as_markdown", "as_text", "render"]


def as_text(
    plan: Plan,
    *,
    notes: Sequence[Note] | None = None,
    entries: Sequence[EntryLike] = (),
    color: bool = False,
    brief: bool = False,
) -> str:
    """The report for a terminal of 100 columns.

    `color` puts ANSI colours in; `brief` leaves the single decisions out.

    `notes` are the report's, where it has more than the plan; `entries` say what became of the
    patches, which without them are shown as planned.
    """
    from accel.reporting.text import text

    return text(compose(plan, notes, entries), color=color, brief=brief)


def as_markdown(
    plan: Plan, *, notes: Sequence[Note] | None = None, entries: Sequence[EntryLike] = ()
) -> str:
    """The report as Markdown with tables, for an issue or a page of documentation."""
    from accel.reporting.markup import markdown

    return markdown(compose(plan, notes, entries))


def as_html(
    plan: Plan, *, notes: Sequence[Note] | None = None, entries: Sequence[EntryLike] = ()
) -> str:
    """The report as a fragment of HTML that needs nothing from elsewhere."""
    from accel.reporting.markup import html

    return html(compose(plan, notes, entries))


def as_dict(
    plan: Plan, *, notes: Sequence[Note] | None = None, entries: Sequence[EntryLike] = ()
) -> dict[str, Any]:
    """The report as plain data with stable keys, schema `accel-report/1`."""
    from accel.reporting.data import data

    return data(plan, plan.notes if notes is None else notes, entries)


def _as_json(plan: Plan, **more: Any) -> str:
    return json.dumps(as_dict(plan, **more), indent=2, ensure_ascii=False)


FORMATS: Mapping[str, Callable[..., str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "html": as_html,
    "json": _as_json,
}


def check_format(name: str) -> str:
    """`name` if there is such a format; InputError with the names there are."""
    if name not in FORMATS:
        raise InputError(
            f"a report has no format {name!r}",
            found=f"formats: {', '.join(FORMATS)}",
            remedy="--format text, or explain('text')",
        )
    return name


def render(report: Report | Plan, format: str = "text") -> str:  # noqa: A002 - the word users know
    """A Report or a Plan in one of `FORMATS`; InputError for any other."""
    view = FORMATS[check_format(format)]
    plan = getattr(report, "plan", report)
    return view(plan, notes=report.notes, entries=getattr(report, "entries", ()))
