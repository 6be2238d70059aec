#!/usr/bin/env python3
"""Write docs/troubleshooting.md and docs/troubleshooting.zh.md from the patches.

    python tools/troubleshooting.py [--check]

The symptom, cause, versions and upstream link are the patch's own; what accel does, and the
Chinese, stand in `troubleshooting.toml` beside the plugin.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accel import pipeline, testing
from accel.values import Patch

ROOT = Path(__file__).resolve().parent.parent
DATA = "troubleshooting.toml"
PAGES = {"en": ROOT / "docs/troubleshooting.md", "zh": ROOT / "docs/troubleshooting.zh.md"}
WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "title": "Troubleshooting",
        "intro": "Errors as they stand on the screen, so that a search finds them; generated from "
        "accel's repairs by `tools/troubleshooting.py`. `accel doctor` looks for what is wrong "
        "with a setup, `accel plan` lists the repairs that apply to it. "
        "[中文](troubleshooting.zh.md)",
        "cause": "Cause",
        "does": "accel",
        "versions": "For",
        "since": "Mended upstream",
        "upstream": "see",
        "any": "any version",
    },
    "zh": {
        "title": "疑难解答",
        "intro": "按屏幕上的错误原文排列，便于搜索；"
        "由 `tools/troubleshooting.py` 根据 accel 的修复生成。"
        "`accel doctor` 检查环境的问题，`accel plan` 列出适用的修复。[English](troubleshooting.md)",
        "cause": "原因",
        "does": "accel 的做法",
        "versions": "适用版本",
        "since": "上游修复于",
        "upstream": "参见",
        "any": "任何版本",
    },
}
SINCE_ZH = {"not yet": "尚未", "never": "不会（autoawq 已停止维护）"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A symptom, the patch it is of, and what the data file says of it."""

    patch: Patch
    told: Mapping[str, str]


def patches() -> list[Patch]:
    """Every patch that some recorded machine, or this one, would have; one for each symptom."""
    found: dict[str, Patch] = {}
    for name in testing.machines():
        for patch in pipeline.plan(machine=str(name)).patches:
            if patch.symptom:
                found.setdefault(patch.symptom, patch)
    return [found[symptom] for symptom in sorted(found)]


def told() -> dict[str, Mapping[str, str]]:
    """The entries of every plugin's data file, by symptom."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    found: dict[str, Mapping[str, str]] = {}
    for path in sorted(ROOT.glob(f"plugins/*/{DATA}")):
        document: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        found.update({entry["symptom"]: entry for entry in document["entry"]})
    return found


def entries() -> list[Entry]:
    """What the pages have; KeyError for a symptom that no data file knows."""
    known = told()
    return [Entry(patch, known[patch.symptom]) for patch in patches()]


def page(language: str, found: Iterable[Entry]) -> str:
    """One page."""
    words = WORDS[language]
    by_library: dict[str, list[Entry]] = {}
    for entry in found:
        by_library.setdefault(entry.patch.distribution or "torch", []).append(entry)
    lines = [f"# {words['title']}", "", words["intro"], ""]
    for library in sorted(by_library):
        lines += [f"## {library}", ""]
        for entry in by_library[library]:
            lines += section(language, entry)
    return "\n".join(lines).rstrip() + "\n"


def section(language: str, entry: Entry) -> list[str]:
    """One symptom."""
    words, patch, text = WORDS[language], entry.patch, entry.told
    cause = patch.reason if language == "en" else text["zh_cause"]
    does = text["does"] if language == "en" else text["zh_does"]
    since = text["since"] if language == "en" else in_chinese(text["since"])
    versions = f"{patch.distribution} {patch.versions}" if patch.versions else words["any"]
    return [
        "```text",
        *patch.symptom.split("; "),
        "```",
        "",
        f"- **{words['cause']}**: {cause}",
        f"- **{words['does']}**: {does}",
        f"- **{words['versions']}**: `{versions}`",
        f"- **{words['since']}**: {since}; {words['upstream']} <{patch.upstream}>",
        "",
    ]


def in_chinese(since: str) -> str:
    """`not yet (x)` and its like."""
    for words, chinese in SINCE_ZH.items():
        if since.startswith(words):
            rest = since.removeprefix(words).strip() if words == "not yet" else ""
            return f"{chinese}{rest}"
    return since


def main() -> int:
    """Write the pages; with --check say whether they are up to date."""
    found = entries()
    wrong = 0
    for language, path in PAGES.items():
        text = page(language, found)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path} is not up to date: python tools/troubleshooting.py", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
