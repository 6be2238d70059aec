"""A report as Markdown and as HTML."""

from __future__ import annotations

import html as escaping
import re
from collections.abc import Iterable, Sequence

from accel.reporting.content import Content

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""A heading, the columns' names, and rows of cells."""

# Neither ground nor ink is set: both are the notebook's, light or dark.
_STYLE = """
.accel-report { font-size: 0.92em; line-height: 1.4; max-width: 72em; }
.accel-report table { border-collapse: collapse; margin: 0.3em 0 0.8em; }
.accel-report th, .accel-report td { text-align: left; vertical-align: top; padding: 0.15em 0.8em
  0.15em 0; border-bottom: 1px solid rgba(128, 128, 128, 0.35); }
.accel-report code { background: rgba(128, 128, 128, 0.15); padding: 0 0.25em; border-radius: 3px; }
.accel-report summary { cursor: pointer; font-weight: 600; }
.accel-report .accepted, .accel-report .applied { color: #2e9e4f; }
.accel-report .rejected, .accel-report .error, .accel-report .failed { color: #d9534f; }
.accel-report .warning, .accel-report .downgrade, .accel-report .skipped { color: #c98a00; }
""".strip()
_CLASSES = frozenset(re.findall(r"\.accel-report \.(\w+)", _STYLE))


def tables(content: Content) -> Iterable[Table]:
    """Every table of a report after the facts, in order; empty ones are left out."""
    found: list[Table] = [
        (
            "Chosen",
            ("feature", "choice", "reason"),
            [(choice.feature, choice.name, choice.reason) for choice in content.choices],
        )
    ]
    found += [
        (
            f"Decisions: {name}",
            ("name", "verdict", "stage", "reason", "source"),
            [
                (
                    f"{row.name} (chosen)" if row.chosen else row.name,
                    row.verdict,
                    row.stage,
                    row.reason,
                    content.sources[row.source - 1] if row.source else "",
                )
                for row in rows
            ],
        )
        for name, rows in content.groups
    ]
    found += [
        (
            "Patches",
            ("state", "target", "reason", "detail", "upstream", "until"),
            [(c.state, c.target, c.why, c.detail, c.upstream, c.until) for c in content.changes],
        ),
        (
            "Notes",
            ("level", "subject", "message", "try"),
            [(n.level.value, n.subject, n.message, n.remedy) for n in content.notes],
        ),
        ("Plugins left out", ("plugin", "problem"), list(content.failures)),
    ]
    return (table for table in found if table[2])


# Markdown -------------------------------------------------------------------------------------


def markdown(content: Content) -> str:
    """The report as Markdown; every cell is escaped, so that no name can start markup."""
    lines = [f"## {_escape(content.title)}", ""]
    lines += [f"- **{label or 'also here'}**: {_escape(body)}" for label, body in content.facts]
    for heading, columns, rows in tables(content):
        lines += ["", f"### {heading}", ""]
        lines += [_line(columns), _line(["---"] * len(columns))]
        lines += [_line([_escape(cell) for cell in row]) for row in rows]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    # An underscore inside a word is no emphasis in CommonMark, and most names have one.
    safe = re.sub(r"([\\`*\[\]|~])|(?<!\w)(_)|(_)(?!\w)", lambda found: f"\\{found.group()}", text)
    return safe.replace("<", "&lt;")


# HTML -----------------------------------------------------------------------------------------


def html(content: Content) -> str:
    """The report as an HTML fragment: escaped, styled within itself, long parts folded."""
    e = escaping.escape
    facts = "".join(
        f"<tr><th>{e(label)}</th><td>{e(body)}</td></tr>" for label, body in content.facts
    )
    parts = [
        '<div class="accel-report">',
        f"<style>{_STYLE}</style>",
        f"<p><strong>{e(content.title)}</strong></p>",
        f"<table>{facts}</table>",
    ]
    for heading, columns, rows in tables(content):
        opened = " open" if heading in {"Chosen", "Notes"} else ""
        parts.append(f"<details{opened}><summary>{e(heading)} ({len(rows)})</summary>")
        parts.append(_table(columns, rows))
        parts.append("</details>")
    return "\n".join([*parts, "</div>"])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escaping.escape(column)}</th>" for column in columns)
    body = "\n".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _cell(cell: str) -> str:
    shown = f' class="{cell}"' if cell in _CLASSES else ""
    return f"<td{shown}>{escaping.escape(cell)}</td>"
