#!/usr/bin/env python3
"""Write docs/troubleshooting.md and docs/troubleshooting.zh.md from the patches and the doctor.

    python tools/troubleshooting.py [--check]

Symptom, cause, versions and upstream link are the patch's own, and those of a trouble its
`doctor.toml`'s; what accel does about a patch's symptom, and the Chinese, stand in
`troubleshooting.toml` beside either.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accel import doctor, pipeline, testing
from accel.troubles import Trouble
from accel.values import Patch

ROOT = Path(__file__).resolve().parent.parent
DATA = "troubleshooting.toml"
PLACES = ("accel/doctor", "plugins/*", "kernels/*")
PAGES = {"en": ROOT / "docs/troubleshooting.md", "zh": ROOT / "docs/troubleshooting.zh.md"}
WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "title": "Troubleshooting",
        "intro": "Errors as they stand on the screen, so that a search finds them; generated from "
        "accel's repairs and from the doctor's rules by `tools/troubleshooting.py`. First what "
        "`accel.auto()` repairs, by library (`accel plan` lists what applies to a machine), then "
        "what [`accel doctor`](doctor.md) finds. [中文](troubleshooting.zh.md)",
        "doctor": "Found by accel doctor",
        "cause": "Cause",
        "does": "accel",
        "remedy": "Remedy",
        "found": "accel doctor",
        "versions": "For",
        "since": "Mended upstream",
        "upstream": "see",
        "any": "any version",
    },
    "zh": {
        "title": "疑难解答",
        "intro": "按屏幕上的错误原文排列，便于搜索；"
        "由 `tools/troubleshooting.py` 根据 accel 的修复和 doctor 的规则生成。"
        "先按库列出 `accel.auto()` 所修复的（`accel plan` 列出适用于一台机器的修复），"
        "再列出 [`accel doctor`](doctor.md) 能找到的。[English](troubleshooting.md)",
        "doctor": "由 accel doctor 找出",
        "cause": "原因",
        "does": "accel 的做法",
        "remedy": "解决办法",
        "found": "accel doctor",
        "versions": "适用版本",
        "since": "上游修复于",
        "upstream": "参见",
        "any": "任何版本",
    },
}
SINCE_ZH = {
    "never: autoawq is no longer maintained": "不会（autoawq 已停止维护）",
    "never: the names are the script's own": "不会（这些名字是脚本自己写的）",
    "the KeyError: transformers 5.24 at the latest": "KeyError 最晚修复于 transformers 5.24",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A symptom, the patches that it is of, and what the data file says of it."""

    symptom: str
    patches: tuple[Patch, ...]
    told: Mapping[str, str]


def patches() -> dict[str, list[Patch]]:
    """By symptom, every patch that some recorded machine, or this one, would have."""
    found: dict[str, dict[tuple[str, str, str], Patch]] = {}
    for name in testing.machines():
        for patch in pipeline.plan(machine=str(name)).patches:
            key = (patch.target, patch.versions or "", patch.reason)
            found.setdefault(patch.symptom or "", {}).setdefault(key, patch)
    return {symptom: list(found[symptom].values()) for symptom in sorted(found)}


def told() -> tuple[dict[str, Mapping[str, str]], dict[str, Mapping[str, str]]]:
    """What the data files say: by a patch's symptom, and by a trouble's id."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    symptoms: dict[str, Mapping[str, str]] = {}
    troubles: dict[str, Mapping[str, str]] = {}
    for place in PLACES:
        for path in sorted(ROOT.glob(f"{place}/{DATA}")):
            document: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
            symptoms.update({entry["symptom"]: entry for entry in document.get("entry", ())})
            troubles.update(document.get("trouble", {}))
    return symptoms, troubles


def entries() -> list[Entry]:
    """The patches' part of the pages; KeyError for a symptom that no data file knows."""
    known, _ = told()
    return [Entry(symptom, tuple(found), known[symptom]) for symptom, found in patches().items()]


def page(language: str, found: Iterable[Entry]) -> str:
    """One page."""
    words = WORDS[language]
    by_library: dict[str, list[Entry]] = {}
    for entry in found:
        by_library.setdefault(entry.patches[0].distribution or "torch", []).append(entry)
    lines = [f"# {words['title']}", "", words["intro"], ""]
    for library in sorted(by_library):
        lines += [f"## {library}", ""]
        for entry in by_library[library]:
            lines += section(language, entry)
    lines += [f"## {words['doctor']}", ""]
    _, known = told()
    for package, troubles in doctor.troubles().items():
        lines += [f"### {package.removeprefix('accel_')}", ""]
        for name, trouble in troubles.items():
            lines += rule(language, trouble, known[name])
    return "\n".join(lines).rstrip() + "\n"


def section(language: str, entry: Entry) -> list[str]:
    """One symptom."""
    words, text = WORDS[language], entry.told
    first = entry.patches[0]
    cause = first.reason if language == "en" else text["zh_cause"]
    does = text["does"] if language == "en" else text["zh_does"]
    since = text["since"] if language == "en" else in_chinese(text["since"])
    ranges = dict.fromkeys(
        f"`{patch.distribution} {patch.versions}`" if patch.versions else words["any"]
        for patch in entry.patches
    )
    return [
        *shown(entry.symptom),
        f"- **{words['cause']}**: {cause}",
        f"- **{words['does']}**: {does}",
        f"- **{words['versions']}**: {', '.join(ranges)}",
        f"- **{words['since']}**: {since}; {words['upstream']} <{first.upstream}>",
        "",
    ]


def rule(language: str, trouble: Trouble, text: Mapping[str, str]) -> list[str]:
    """One trouble of the doctor's."""
    words = WORDS[language]
    english = language == "en"
    lines = [
        *shown(trouble.symptom),
        f"- **{words['cause']}**: {trouble.cause if english else text['zh_cause']}",
        f"- **{words['remedy']}**: {trouble.remedy if english else text['zh_remedy']}",
        f"- **{words['found']}**: `{trouble.id}`",
    ]
    if trouble.upstream:
        lines[-1] += f"; {words['upstream']} <{trouble.upstream}>"
    return [*lines, ""]


def shown(symptom: str) -> list[str]:
    """The errors, one a line, as code."""
    return ["```text", *symptom.split("; "), "```", ""]


def in_chinese(since: str) -> str:
    """`not yet (x)` and its like; a library's version stays as it is."""
    if since.startswith("not yet"):
        return "尚未" + since.removeprefix("not yet").strip()
    return SINCE_ZH.get(since, since)


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
