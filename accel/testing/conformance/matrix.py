"""The support matrix: which device has what, by what passed and never by what was claimed.

It is made of conformance results and nothing else, so the same results give the same bytes. A cell
says how its capability is known: `measured` on the hardware, passed on the `simulator`, `declared`
only, or not there, with a link to the reason.
"""

from __future__ import annotations

import dataclasses
import json
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from accel.errors import InputError
from accel.testing.conformance.results import BAD, Conformance, Result
from accel.values import Feature

Word = Literal["measured", "simulator", "declared", "partly", "fails", "no", ""]
WORDS: Mapping[str, Word] = {"hardware": "measured", "simulator": "simulator"}
RUNTIME = {
    "runtime.device": "device",
    "runtime.memory": "memory",
    "runtime.stream": "streams",
    "runtime.event": "events",
    "runtime.random": "seeds",
    "collective.sums": "2, 3, 4 ranks",
}
HOST = "cpu"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of the suite that the matrix is made of, with the letter that cells name it by."""

    letter: str
    outcome: Conformance

    @property
    def how(self) -> str:
        return self.outcome.how

    @property
    def arch(self) -> str:
        return "" if self.outcome.device is None else str(self.outcome.device["arch"])


@dataclasses.dataclass
class Cell:
    """What is known of one thing on one device. `note` is the number of its reason, from 1."""

    word: Word
    text: str = ""
    run: str = ""
    note: int = 0


@dataclasses.dataclass
class Table:
    """Devices by things: `rows` are (plugin, device's name, architecture, cells)."""

    title: str
    about: str
    columns: list[str]
    rows: list[tuple[str, str, str, list[Cell]]]


@dataclasses.dataclass
class Matrix:
    """All of it, ready to be written."""

    tables: list[Table]
    runs: list[Run]
    reasons: list[tuple[str, str]]
    """Reason and link, in the order of their numbers."""


def read(folder: Path) -> list[Conformance]:
    """The results in a folder. InputError where it has none, or one is damaged or incomplete."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(
            f"there are no conformance results in {folder}",
            remedy=f"accel conformance NAME --save {folder}/NAME.json",
        )
    found = []
    for file in files:
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{file} cannot be read",
                found=getattr(error, "strerror", None) or str(error),
                remedy=f"accel conformance NAME --save {file}",
            ) from None
        found.append(Conformance.from_json(document, str(file)))
        if not found[-1].complete:
            raise InputError(
                f"{file} is of a run that was stopped, and counts for nothing",
                found=f"not done: {', '.join(found[-1].unfinished)}",
                remedy=f"accel conformance {found[-1].plugin} --save {file}",
            )
    return found


def build(outcomes: Iterable[Conformance]) -> Matrix:
    """The matrix of these results."""
    return _Builder(outcomes).matrix()


class _Builder:
    def __init__(self, outcomes: Iterable[Conformance]) -> None:
        ordered = sorted(outcomes, key=_order)
        self.runs = [Run(letter, one) for letter, one in zip(_letters(), ordered, strict=False)]
        self.reasons: dict[tuple[str, str], int] = {}
        self.devices = [run for run in self.runs if _detects(run.outcome)]
        self.menders = [
            run for run in self.runs if not _detects(run.outcome) and _mends(run.outcome)
        ]

    def matrix(self) -> Matrix:
        tables = [table for feature in Feature if (table := self._feature(feature))]
        tables += [self._runtime(), self._repairs()]
        return Matrix(tables, self.runs, list(self.reasons))

    def _archs(self) -> Iterator[tuple[str, str, str]]:
        """Plugin, architecture and name of every device that somebody declares, once."""
        seen = set()
        for run in self.devices:
            for arch, entry in run.outcome.declared.items():
                if (run.outcome.plugin, arch) not in seen:
                    seen.add((run.outcome.plugin, arch))
                    yield run.outcome.plugin, arch, entry["name"]

    def _feature(self, feature: Feature) -> Table | None:
        said = [
            key.partition(":")[2]
            for run in self.devices
            for entry in run.outcome.declared.values()
            for key in entry["says"]
            if key.startswith(f"{feature.value}:")
        ]
        columns = sorted(set(said), key=lambda name: (-said.count(name), name))
        if not columns:
            return None
        rows = [
            (plugin, name, arch, [self._capability(plugin, arch, feature, c) for c in columns])
            for plugin, arch, name in self._archs()
        ]
        return Table(feature.value.capitalize(), "", columns, rows)

    def _capability(self, plugin: str, arch: str, feature: Feature, name: str) -> Cell:
        """The best that is known: from the hardware, else the simulator, else what is declared."""
        key = f"{feature.value}:{name}"
        for run in self._ran(plugin, arch):
            cell = self._tried(run, feature, name, key)
            if cell is not None:
                return cell
        for run in self._of(plugin):
            said = run.outcome.declared.get(arch, {}).get("says", {}).get(key)
            if said == "yes":
                return Cell("declared", run=run.letter)
            if said is not None:
                return Cell("no", note=self._note(said, ""))
        return Cell("")

    def _tried(self, run: Run, feature: Feature, name: str, key: str) -> Cell | None:
        """What a run on the device itself says of a capability; None where it did not try."""
        results = [r for r in run.outcome.of("probe.passes") if r.case == key]
        if feature is Feature.DTYPE:
            results += [
                r for r in run.outcome.of("dtype.computes") if r.case.startswith(f"{name}/")
            ]
        if feature is Feature.COLLECTIVE:
            results += [
                r for r in run.outcome.of("collective.sums") if r.case.startswith(f"{name}/")
            ]
        ran = [result for result in results if result.status != "skipped"]
        if not ran:
            return None
        word = WORDS[run.how]
        refused = [result for result in ran if result.status != "passed"]
        if not refused:
            return Cell(word, run=run.letter)
        first = refused[0]
        proven = ran[0].case == key and ran[0].status == "passed"
        note = self._note(_why(first), first.link)
        if proven:
            return Cell("partly", f"{word}, less {len(refused)} of {len(ran)}", run.letter, note)
        broken = any(result.status in BAD for result in refused)
        return Cell("fails" if broken else "no", run=run.letter, note=note)

    def _runtime(self) -> Table:
        rows = []
        for plugin, arch, name in self._archs():
            ran = self._ran(plugin, arch)
            if ran:
                cells = [self._operators(ran[0]), *(self._rule(ran[0], r) for r in RUNTIME)]
                rows.append((plugin, name, arch, cells))
        about = "Only devices that the suite ran on. The number is of cases that passed."
        return Table("Operators and runtime", about, ["operators", *RUNTIME.values()], rows)

    def _operators(self, run: Run) -> Cell:
        results = [r for r in run.outcome.of("dtype.computes") if "/" in r.case]
        return self._counted(run, results)

    def _rule(self, run: Run, rule: str) -> Cell:
        return self._counted(run, list(run.outcome.of(rule)))

    def _counted(self, run: Run, results: Sequence[Result]) -> Cell:
        ran = [result for result in results if result.status != "skipped"]
        if not ran:
            why = next((result.detail for result in results), "did not run")
            return Cell("no", "not run", run.letter, self._note(why, ""))
        passed = sum(result.status == "passed" for result in ran)
        text = f"{passed}/{len(ran)}"
        if passed == len(ran):
            return Cell(WORDS[run.how], f"{WORDS[run.how]} {text}", run.letter)
        first = next(result for result in ran if result.status != "passed")
        return Cell(
            "partly", f"{WORDS[run.how]} {text}", run.letter, self._note(_why(first), first.link)
        )

    def _repairs(self) -> Table:
        about = (
            "Repairs that are planned for the device, and how many of them were applied to the "
            "installed library and undone again, to the identical objects. That needs no device."
        )
        names = sorted({run.outcome.plugin for run in self.menders})
        rows = [
            (plugin, name, arch, [self._repair(mender, arch) for mender in names])
            for plugin, arch, name in self._archs()
        ]
        return Table("Framework repairs", about, names, rows)

    def _repair(self, mender: str, arch: str) -> Cell:
        run = next(run for run in self.menders if run.outcome.plugin == mender)
        says = run.outcome.declared.get(arch, {}).get("says", {})
        targets = {key.partition(":")[2] for key in says if key.startswith("patch:")}
        if not targets:
            return Cell("", "none needed")
        results = [r for r in run.outcome.of("patch.undo") if r.case in targets]
        passed = [r for r in results if r.status == "passed"]
        text = f"{len(passed)}/{len(targets)}"
        refused = [r for r in results if r.status in (*BAD, "expected")]
        if refused:
            return Cell("fails", text, run.letter, self._note(_why(refused[0]), refused[0].link))
        if not passed:
            why = next((r.detail for r in results), "its libraries are not installed")
            return Cell("declared", text, run.letter, self._note(why, ""))
        return Cell("measured", f"undone {text}", run.letter)

    def _of(self, plugin: str) -> list[Run]:
        return [run for run in self.devices if run.outcome.plugin == plugin]

    def _ran(self, plugin: str, arch: str) -> list[Run]:
        """The runs on that device itself, hardware first."""
        return [run for run in self._of(plugin) if run.arch == arch and run.how in WORDS]

    def _note(self, reason: str, link: str) -> int:
        return self.reasons.setdefault((reason, link), len(self.reasons) + 1)


def _why(result: Result) -> str:
    return result.reason or f"{result.case or result.rule}: {result.detail}"


def _order(outcome: Conformance) -> tuple[Any, ...]:
    """By name; hardware, simulator, recorded; newest first. The host processor comes last."""
    how = ("hardware", "simulator", "recorded").index(outcome.how)
    kinds = {entry.get("kind") for entry in outcome.declared.values()}
    newest = tuple(-int(part) for part in outcome.date.split("-"))
    arch = "" if outcome.device is None else str(outcome.device["arch"])
    return (kinds == {HOST}, outcome.plugin, how, arch, newest)


def _detects(outcome: Conformance) -> bool:
    return any(result.status != "skipped" for result in outcome.of("claim.own"))


def _mends(outcome: Conformance) -> bool:
    return any(
        key.startswith("patch:") for entry in outcome.declared.values() for key in entry["says"]
    )


def _letters() -> Iterator[str]:
    """a to z, then aa to zz."""
    yield from string.ascii_lowercase
    for first in string.ascii_lowercase:
        for second in string.ascii_lowercase:
            yield first + second


def render(matrix: Matrix, form: Literal["md", "html"]) -> str:
    """The matrix as Markdown or as an HTML page that needs nothing beside it."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("accel.testing.conformance", "template"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=form == "html",  # noqa: S701 - Markdown has characters of its own, see `_plain`
    )
    environment.filters["plain"] = _plain
    return environment.get_template(f"matrix.{form}.jinja").render(matrix=matrix)


def _plain(text: str) -> str:
    """Text that a cell of a Markdown table takes for text."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
