"""What a run of the suite found: one Result for each case of each rule, and the whole of them."""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import accel
from accel.errors import InputError
from accel.values import EMPTY

SCHEMA = "accel-conformance/1"

Status = Literal["passed", "failed", "skipped", "expected", "unexpected"]
"""`expected` is a failure that the plugin's own file foretold, `unexpected` a pass that it did not
foretell: a failure too, because the file is wrong then."""

BAD: frozenset[Status] = frozenset({"failed", "unexpected"})

How = Literal["hardware", "simulator", "recorded"]
"""Where the rules ran that need the device: on the real one, on a simulated one, or nowhere."""


_FOLDERS = re.compile(r"(?<![\w.])(?:/[^/\s'\":,;()]+)+/(?=(?:site|dist)-packages/)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What a rule says of one case. `case` is empty where a rule has only one."""

    case: str = ""
    status: Status = "passed"
    detail: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """A Finding with the rule it belongs to, and what the plugin's own file says of it.

    `reason` and `link` are those of the expected failure; `seconds` of wall time.
    """

    rule: str
    case: str
    status: Status
    detail: str
    seconds: float
    reason: str = ""
    link: str = ""

    @property
    def name(self) -> str:
        return f"{self.rule}[{self.case}]" if self.case else self.rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conformance:
    """Everything one run found of one plugin, with where and with what it ran.

    `device` describes the device that the rules ran on, and is None where there was none.
    `declared` is what the plugin says of each architecture, whether it ran there or not.
    `unfinished` are the rules that were to be asked and are not done: the run goes on, or it was
    stopped, and what it found until then counts for nothing.
    """

    plugin: str
    distribution: str
    version: str
    how: How
    device: Mapping[str, Any] | None
    versions: Mapping[str, str]
    date: str
    results: tuple[Result, ...]
    declared: Mapping[str, Any] = dataclasses.field(default_factory=lambda: EMPTY)
    unfinished: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every rule that was to be asked is done."""
        return not self.unfinished

    @property
    def counts(self) -> Mapping[str, int]:
        return Counter(result.status for result in self.results)

    @property
    def ok(self) -> bool:
        """Whether all of it was done, something ran, and that passed or failed as was foretold."""
        return (
            self.complete
            and self.counts.get("passed", 0) > 0
            and not any(result.status in BAD for result in self.results)
        )

    def of(self, rule: str) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.rule == rule)

    def text(self) -> str:
        """The JSON to keep in a file: a line for each result, without what is empty."""
        document = self.to_json()
        lines = [
            json.dumps({k: v for k, v in result.items() if v not in ("", 0.0)}, ensure_ascii=False)
            for result in map(_without_folders, document.pop("results"))
        ]
        head = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True)
        body = ",".join(f"\n  {line}" for line in lines)
        return f'{head[:-2]},\n "results": [{body}\n ]\n}}\n'

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`, results in the order in which they came."""
        body = dataclasses.asdict(
            dataclasses.replace(
                self, versions=dict(self.versions), declared=dict(self.declared), device=None
            )
        )
        device = None if self.device is None else dict(self.device)
        return {
            "schema": SCHEMA,
            **body,
            "device": device,
            "complete": self.complete,
            "ok": self.ok,
        }

    @classmethod
    def from_json(cls, document: Any, origin: str = "this file") -> Conformance:
        """The Conformance that `to_json` wrote. Raises InputError on anything else."""
        remedy = "accel conformance NAME --save FILE"
        if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
            raise InputError(f"{origin} holds no conformance results", remedy=remedy)
        derived = ("schema", "complete", "ok")
        body = {key: value for key, value in document.items() if key not in derived}
        try:
            body["results"] = tuple(_result(result) for result in body["results"])
            body["unfinished"] = tuple(body.get("unfinished", ()))
            return cls(**body)
        except (TypeError, KeyError) as error:
            raise InputError(
                f"{origin} holds damaged conformance results", found=str(error), remedy=remedy
            ) from None


def _without_folders(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result for a file that is shared: where this machine keeps its packages is left out."""
    return {**result, "detail": _FOLDERS.sub("", result["detail"])}


def _result(fields: Mapping[str, Any]) -> Result:
    return Result(**{"case": "", "detail": "", "seconds": 0.0, **fields})


def versions() -> dict[str, str]:
    """Of accel, Python and torch; read from metadata, so that nothing is imported."""
    from accel.machine import ThisMachine

    found = {"accel": accel.__version__, "python": platform.python_version()}
    torch = ThisMachine().version("torch")
    return {**found, "torch": torch} if torch else found


def today() -> str:
    """The date in UTC, as ISO 8601 writes it."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()
