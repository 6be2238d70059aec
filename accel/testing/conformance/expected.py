"""Expected failures: `conformance.toml` beside the plugin, each entry with its reason.

    schema = 1

    [[expected]]
    rule = "dtype.computes"          # a rule's id
    case = "float16/conv3d"          # as in the results; * and ? as in file names; a list for
                                     # several; default all
    where = "hardware"               # or simulator; default both. Rules without a device: either
    arch = "x1*"                     # of the device it ran on; default any
    plugins = ["x"]                  # where several entry points share the file; default all
    reason = "the device has no float16 convolution in three dimensions"
    link = "https://..."             # optional

Every result that an entry matches must fail. One that passes is an unexpected pass, and a failure.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accel.errors import InputError
from accel.testing.conformance.results import Finding, How, Result
from accel.values import Device

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "conformance.toml"
_WHERE = ("hardware", "simulator", "recorded")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
    """One expected failure."""

    rule: str
    reason: str
    cases: tuple[str, ...] = ("*",)
    where: str = ""
    arch: str = ""
    plugins: tuple[str, ...] = ()
    link: str = ""

    def matches(self, rule: str, case: str) -> bool:
        return rule == self.rule and any(fnmatch.fnmatchcase(case, one) for one in self.cases)


def expected_for(
    plugin: str, folders: Iterable[Path], rules: Sequence[str], how: How, device: Device | None
) -> tuple[Expected, ...]:
    """The entries that apply to this plugin where it runs now. InputError for a malformed file."""
    found = []
    for folder in folders:
        file = folder / FILE
        if file.is_file():
            found += parse(file.read_text(encoding="utf-8"), str(file), rules)
    return tuple(
        entry
        for entry in found
        if (not entry.plugins or plugin in entry.plugins)
        and (not entry.where or entry.where == how)
        and (
            not entry.arch or (device is not None and fnmatch.fnmatchcase(device.arch, entry.arch))
        )
    )


def parse(text: str, origin: str, rules: Sequence[str]) -> list[Expected]:
    """The entries of a file. Raises InputError for whatever is wrong in it, by its place."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"{origin} is not valid TOML", found=str(error), remedy=f"mend it: {origin}"
        ) from None
    unknown = sorted(set(document) - {"schema", "expected"})
    if document.get("schema") != 1 or unknown:
        raise InputError(
            f"{origin} is no list of expected failures",
            found=f"schema {document.get('schema')!r}" + "".join(f", {key}" for key in unknown),
            remedy="schema = 1, and tables [[expected]]",
        )
    return [
        _entry(fields, f"{origin}: entry {number}", rules)
        for number, fields in enumerate(document.get("expected", ()), 1)
    ]


def _entry(fields: Any, place: str, rules: Sequence[str]) -> Expected:
    known = ("rule", "case", "where", "arch", "plugins", "reason", "link")
    wrong = sorted(set(fields) - set(known))
    if wrong:
        raise InputError(f"{place} has {', '.join(wrong)}", remedy=f"one of: {', '.join(known)}")
    if not str(fields.get("reason", "")).strip():
        raise InputError(f"{place} gives no reason", remedy='reason = "why it fails"')
    if fields.get("rule") not in rules:
        raise InputError(
            f"{place} is for a rule that there is not",
            found=repr(fields.get("rule")),
            remedy=f"one of: {', '.join(rules)}",
        )
    if fields.get("where", "hardware") not in _WHERE:
        raise InputError(
            f"{place}: where = {fields['where']!r}", remedy=f"one of: {', '.join(_WHERE)}"
        )
    cases = fields.get("case", "*")
    cases = [cases] if isinstance(cases, str) else cases
    if not cases or not isinstance(cases, list) or not all(isinstance(one, str) for one in cases):
        raise InputError(
            f"{place}: case = {fields['case']!r}", remedy='case = "a pattern", or a list of them'
        )
    rest = {key: value for key, value in fields.items() if key not in ("case", "plugins")}
    return Expected(**rest, cases=tuple(cases), plugins=tuple(fields.get("plugins", ())))


def judged(rule: str, finding: Finding, entries: Iterable[Expected]) -> Result:
    """The finding as a result, in the light of what was expected."""
    entry = next((entry for entry in entries if entry.matches(rule, finding.case)), None)
    result = Result(
        rule=rule,
        case=finding.case,
        status=finding.status,
        detail=finding.detail,
        seconds=round(finding.seconds, 3),
    )
    if entry is None or finding.status == "skipped":
        return result
    if finding.status == "passed":
        return dataclasses.replace(
            result,
            status="unexpected",
            detail=f"passed, though it was expected to fail: {entry.reason}",
            reason=entry.reason,
            link=entry.link,
        )
    return dataclasses.replace(result, status="expected", reason=entry.reason, link=entry.link)


def draft(results: Sequence[Result], where: Mapping[str, str] | None = None) -> str:
    """A `conformance.toml` with entries for all that failed, each reason left to be written.

    Until it is, `parse` refuses the file. What failed with the same words is one entry. `where` is
    for the rules that an entry is to have one for: what fails on the device may pass elsewhere.
    """
    where = where or {}
    failed = {(r.rule, r.case): r.detail for r in results if r.status == "failed"}
    entries: dict[tuple[str, str], list[str]] = {}
    for (rule, case), detail in failed.items():
        cases = entries.setdefault((rule, _one_line(detail)), [])
        pattern = _pattern(rule, case, results, failed)
        if pattern not in cases:
            cases.append(pattern)
    lines = [
        "# Every result that an entry matches must fail. Write each reason, or mend the cause.",
        "schema = 1",
    ]
    for (rule, detail), cases in entries.items():
        quoted = [_quoted(case) for case in cases]
        several = "[\n" + "".join(f"  {case},\n" for case in quoted) + "]"
        lines += [
            "\n[[expected]]",
            f"rule = {_quoted(rule)}",
            f"case = {quoted[0] if len(quoted) == 1 else several}",
            *([f"where = {_quoted(where[rule])}"] if rule in where else []),
            f'reason = ""  # {detail}',
        ]
    return "\n".join(lines) + "\n"


def _pattern(
    rule: str, case: str, results: Sequence[Result], failed: Iterable[tuple[str, str]]
) -> str:
    """The case as a pattern for itself alone, or for all dtypes where it fails in all."""
    before, slash, operator = case.partition("/")
    same = {r.case for r in results if r.rule == rule and r.case.endswith(f"/{operator}")}
    alike = {other for other in same if other.partition("/")[2] == operator}
    if slash and len(alike) > 1 and all((rule, other) in failed for other in alike):
        return f"*/{_escaped(operator)}"
    return _escaped(before) + slash + _escaped(operator)


def _escaped(text: str) -> str:
    """fnmatch takes a character in brackets for itself."""
    return re.sub(r"[*?\[]", lambda found: f"[{found.group()}]", text)


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's, but for the one control character that JSON lets through."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
