"""Finds and loads plugins one entry point at a time, and calls their hooks, each call guarded.

A plugin that raises, exits, hangs or answers nonsense is recorded with the distribution it came
from; the others never notice.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from accel.distributions import Installed
from accel.errors import InputError, PluginContractError, PluginError, PluginLoadError
from accel.guarding import Hung, describe, guarded
from accel.hooks import Implementation, implementations
from accel.value import Value, replaced
from accel.values import Level, Note, PluginInfo

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

GROUP = "accel"
OWN_DISTRIBUTION = "accel-hal"
SECONDS = 10.0
MOST_ITEMS = 10_000
"""Of one answer: a generator that never ends would fill the memory long before its time is up."""


class Candidate(Value, kw_only=False):
    """An entry point before it is loaded."""

    name: str
    value: str
    distribution: str
    version: str
    load: Callable[[], Any]

    @property
    def order(self) -> tuple[str, bool, str]:
        # accel's own names are taken: a stranger's plugin of the same name comes second.
        return (self.name, self.distribution != OWN_DISTRIBUTION, self.distribution)

    def info(self, **changes: Any) -> PluginInfo:
        known = PluginInfo(
            name=self.name,
            distribution=self.distribution,
            version=self.version,
            value=self.value,
        )
        return replaced(known, **changes)


class Answer(Value, kw_only=False):
    """What one plugin said to a hook."""

    owner: str
    value: Any


def candidates() -> list[Candidate]:
    """Every entry point of the group, in the order in which they are loaded."""
    found = [
        Candidate(entry.name, entry.value, entry.distribution, entry.version, entry.load)
        for entry in Installed().entry_points(GROUP)
    ]
    return sorted(found, key=lambda candidate: candidate.order)


def refused_names() -> frozenset[str]:
    """Plugin or distribution names in `ACCEL_DISABLE_PLUGINS`."""
    listed = os.environ.get("ACCEL_DISABLE_PLUGINS", "")
    return frozenset(part.strip() for part in listed.split(",") if part.strip())


def hook_seconds() -> float:
    """The time limit of one hook call: `ACCEL_PLUGIN_SECONDS`, else 10 s.

    Raises InputError for what is no time that can be waited for.
    """
    setting = os.environ.get("ACCEL_PLUGIN_SECONDS", "").strip()
    try:
        seconds = float(setting) if setting else SECONDS
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= threading.TIMEOUT_MAX:
        raise InputError(
            "ACCEL_PLUGIN_SECONDS is the time of one call of a plugin, in seconds above 0",
            found=f"ACCEL_PLUGIN_SECONDS={setting}",
            remedy=f"unset ACCEL_PLUGIN_SECONDS, which means {SECONDS:g}",
        )
    return seconds


class Plugins:
    """The loaded plugins, and the failures so far."""

    def __init__(
        self,
        found: Sequence[Candidate] | None = None,
        *,
        refused: Iterable[str] | None = None,
        seconds: float | None = None,
    ) -> None:
        self._implemented: dict[str, list[tuple[str, Implementation]]] = {}
        """By hook: plugins in the order in which they are asked, and what they gave for it."""
        self._seconds = hook_seconds() if seconds is None else seconds
        self._infos: dict[tuple[str, str], PluginInfo] = {}
        self._failures: list[Note] = []
        self._hung: set[str] = set()
        self._load(
            candidates() if found is None else found,
            refused_names() if refused is None else refused,
        )

    @property
    def infos(self) -> tuple[PluginInfo, ...]:
        return tuple(self._infos.values())

    @property
    def failures(self) -> tuple[Note, ...]:
        return tuple(self._failures)

    def info(self, name: str) -> PluginInfo | None:
        """The plugin of that name: the loaded one, if two share it."""
        named = [info for info in self._infos.values() if info.name == name]
        return min(named, key=lambda info: info.status != "loaded", default=None)

    def implements(self, name: str, hook: str) -> bool:
        return any(plugin == name for plugin, _ in self._implemented.get(hook, ()))

    def call(
        self,
        hook: str,
        *,
        only: Callable[[str], bool] = lambda name: True,
        seconds: float | None = None,
        **arguments: Any,
    ) -> list[Answer]:
        """Ask every plugin that implements `hook`, in order of name; failures are noted.

        `seconds` is the time of each one, where it is not the usual.
        """
        asked = [
            (name, implementation)
            for name, implementation in self._implemented.get(hook, ())
            if name not in self._hung and only(name)
        ]
        calls = [
            functools.partial(_settled, one.function, [arguments[each] for each in one.arguments])
            for _, one in asked
        ]
        answers = []
        for (name, _), outcome in zip(asked, guarded(calls, seconds or self._seconds), strict=True):
            if isinstance(outcome.error, Hung):
                # Its thread may hold locks of the plugin's own: it is not asked again.
                self._hung.add(name)
            if outcome.error is not None:
                self.fail(name, f"{describe(outcome.error)} in {hook}")
            else:
                answers.append(Answer(name, outcome.value))
        return answers

    def fail(self, name: str, problem: str, *, level: Level = Level.ERROR) -> None:
        """Note a failure of the plugin `name`, with the distribution it came from."""
        info = self.info(name)
        origin = f"{info.distribution} {info.version}".strip() if info else "unknown distribution"
        note = Note(
            level=level,
            subject=f"plugin {name}",
            message=problem,
            remedy=f"ACCEL_DISABLE_PLUGINS={name} leaves it out; tell the makers of {origin}",
            origin=origin,
        )
        if note not in self._failures:
            self._failures.append(note)

    def error_of(self, name: str) -> PluginError | None:
        """The error where the user asks by name for a plugin that failed or was refused."""
        info = self.info(name)
        if info is None:
            return None
        if info.status != "loaded":
            return PluginLoadError(
                f"plugin {name} (from {info.distribution} {info.version}) is {info.status}",
                found=info.problem,
                remedy=f"pip install --upgrade {info.distribution}"
                if info.status == "failed"
                else "unset ACCEL_DISABLE_PLUGINS",
            )
        for note in self._failures:
            if note.subject == f"plugin {name}":
                return PluginContractError(
                    f"plugin {name} (from {note.origin}) failed",
                    found=note.message,
                    remedy=note.remedy,
                )
        return None

    def _load(self, found: Sequence[Candidate], refused: Iterable[str]) -> None:
        refused = frozenset(refused)
        ordered = sorted(found, key=lambda item: item.order)
        waiting = []
        for candidate in ordered:
            if {candidate.name, candidate.distribution} & refused:
                self._keep(candidate, status="refused", problem="refused by ACCEL_DISABLE_PLUGINS")
            else:
                waiting.append(candidate)
        taken: dict[str, Candidate] = {}
        while waiting:  # a second plugin of one name has its turn only where the first failed
            first = {candidate.name: candidate for candidate in reversed(waiting)}
            self._load_round([c for c in waiting if first[c.name] is c], taken)
            waiting = [candidate for candidate in waiting if first[candidate.name] is not candidate]
        for asked in self._implemented.values():
            asked.sort(key=lambda pair: (pair[1].place, pair[0]))
        self._infos = {key: self._infos[key] for key in map(_key, ordered)}

    def _load_round(self, batch: Sequence[Candidate], taken: dict[str, Candidate]) -> None:
        free = [candidate for candidate in batch if candidate.name not in taken]
        loaded = guarded([functools.partial(_loaded, each) for each in free], self._seconds)
        outcomes = dict(zip(map(_key, free), loaded, strict=True))
        for candidate in batch:
            outcome = outcomes.get(_key(candidate))
            if outcome is None:
                other = taken[candidate.name]
                problem = f"its name is taken by {other.distribution} {other.version}"
                self._broken(candidate, problem)
            elif outcome.error is not None:
                self._broken(candidate, _problem_of(outcome.error))
            else:
                taken[candidate.name] = candidate
                self._keep(candidate)
                for one in outcome.value:
                    self._implemented.setdefault(one.hook, []).append((candidate.name, one))

    def _keep(self, candidate: Candidate, **changes: Any) -> None:
        self._infos[_key(candidate)] = candidate.info(**changes)

    def _broken(self, candidate: Candidate, problem: str) -> None:
        self._keep(candidate, status="failed", problem=problem)
        origin = f"{candidate.distribution} {candidate.version}".strip()
        self._failures.append(
            Note(
                level=Level.ERROR,
                subject=f"plugin {candidate.name}",
                message=problem,
                remedy=f"pip install --upgrade {candidate.distribution}, "
                f"or ACCEL_DISABLE_PLUGINS={candidate.name}",
                origin=origin,
            )
        )


class _Irregular(PluginContractError):
    """A plugin that can be imported and breaks the contract."""


def _key(candidate: Candidate) -> tuple[str, str]:
    return candidate.name, candidate.distribution


def _loaded(candidate: Candidate) -> list[Implementation]:
    plugin = candidate.load()
    try:
        return implementations(plugin, candidate.name)
    except Exception as error:  # whatever pluggy raises, its reasons are the plugin's
        raise _Irregular(describe(error)) from error


def _problem_of(error: BaseException) -> str:
    if isinstance(error, _Irregular):
        return error.wanted
    return f"{describe(error)} while loading"


def _settled(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """What a hook answers; whatever gives its items one by one does so while the guard is on."""
    value = function(*arguments)
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping)):
        return value
    if hasattr(value, "__enter__"):  # a context that a hook was asked for, to be entered
        return value
    items = list(itertools.islice(value, MOST_ITEMS + 1))
    if len(items) > MOST_ITEMS:
        raise PluginContractError(f"more than {MOST_ITEMS} items were answered")
    return items
