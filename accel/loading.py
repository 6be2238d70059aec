"""Finds and loads plugins one entry point at a time, and calls their hooks, each call guarded.

A plugin that raises, exits, hangs or answers nonsense is recorded with the distribution it came
from; the others never notice.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pluggy

from accel import hookspecs
from accel.errors import PluginContractError, PluginError, PluginLoadError
from accel.guarding import Hung, describe, guarded
from accel.machine import canonical, name_and_version
from accel.values import Level, Note, PluginInfo

GROUP = "accel"
OWN_DISTRIBUTION = "accel-hal"
SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Candidate:
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
        return dataclasses.replace(known, **changes)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one plugin said to a hook."""

    owner: str
    value: Any


def candidates() -> list[Candidate]:
    """Every entry point of the group, in the order in which they are loaded."""
    origins: dict[int, tuple[str, str]] = {}
    found = []
    for entry in importlib.metadata.entry_points(group=GROUP):
        if id(entry.dist) not in origins:
            origins[id(entry.dist)] = (
                name_and_version(entry.dist) if entry.dist else ("unknown", "")
            )
        name, version = origins[id(entry.dist)]
        found.append(Candidate(entry.name, entry.value, canonical(name), version, entry.load))
    return sorted(set(found), key=lambda candidate: candidate.order)


def refused_names() -> frozenset[str]:
    """Plugin or distribution names in `ACCEL_DISABLE_PLUGINS`."""
    listed = os.environ.get("ACCEL_DISABLE_PLUGINS", "")
    return frozenset(part.strip() for part in listed.split(",") if part.strip())


def hook_seconds() -> float:
    """The time limit of one hook call: `ACCEL_PLUGIN_SECONDS`, else 10 s."""
    try:
        return float(os.environ.get("ACCEL_PLUGIN_SECONDS", SECONDS))
    except ValueError:
        return SECONDS


class Plugins:
    """The loaded plugins, and the failures so far."""

    def __init__(
        self,
        found: Sequence[Candidate] | None = None,
        *,
        refused: Iterable[str] | None = None,
        seconds: float | None = None,
    ) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
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
        return any(impl.plugin_name == name for impl in self._hook(hook).get_hookimpls())

    def call(
        self, hook: str, *, only: Callable[[str], bool] = lambda name: True, **arguments: Any
    ) -> list[Answer]:
        """Ask every plugin that implements `hook`, in order of name; failures are noted."""
        answers = []
        for impl in reversed(self._hook(hook).get_hookimpls()):
            if impl.plugin_name in self._hung or not only(impl.plugin_name):
                continue
            passed = [arguments[name] for name in impl.argnames]
            outcome = guarded(functools.partial(_settled, impl.function, passed), self._seconds)
            if isinstance(outcome.error, Hung):
                # Its thread may hold locks of the plugin's own: it is not asked again.
                self._hung.add(impl.plugin_name)
            if outcome.error is not None:
                self.fail(impl.plugin_name, f"{describe(outcome.error)} in {hook}")
            else:
                answers.append(Answer(impl.plugin_name, outcome.value))
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

    def _hook(self, name: str) -> pluggy.HookCaller:
        caller: pluggy.HookCaller = getattr(self._manager.hook, name)
        return caller

    def _load(self, found: Sequence[Candidate], refused: Iterable[str]) -> None:
        refused = frozenset(refused)
        loaded: list[tuple[Candidate, Any]] = []
        taken: dict[str, Candidate] = {}
        for candidate in sorted(found, key=lambda item: item.order):
            if {candidate.name, candidate.distribution} & refused:
                self._keep(candidate, status="refused", problem="refused by ACCEL_DISABLE_PLUGINS")
            elif candidate.name in taken:
                other = taken[candidate.name]
                self._broken(
                    candidate, f"its name is taken by {other.distribution} {other.version}"
                )
            else:
                outcome = guarded(candidate.load, self._seconds)
                if outcome.error is not None:
                    self._broken(candidate, f"{describe(outcome.error)} while loading")
                    continue
                taken[candidate.name] = candidate
                self._keep(candidate)
                loaded.append((candidate, outcome.value))
        # pluggy calls the last registered first; registered backwards, they are called by name.
        for candidate, plugin in reversed(loaded):
            self._register(candidate, plugin)

    def _register(self, candidate: Candidate, plugin: Any) -> None:
        try:
            self._manager.register(plugin, name=candidate.name)
            self._manager.check_pending()
            for hook in self._manager.get_hookcallers(plugin) or ():
                if any(
                    impl.hookwrapper or impl.wrapper
                    for impl in hook.get_hookimpls()
                    if impl.plugin is plugin
                ):
                    raise PluginContractError(
                        f"{hook.name} is a wrapper, which accel does not call"
                    )
        except (ValueError, TypeError, pluggy.PluginValidationError, PluginContractError) as error:
            if self._manager.get_plugin(candidate.name) is not None:
                self._manager.unregister(name=candidate.name)
                self._manager._name2plugin.pop(candidate.name, None)
            self._broken(candidate, describe(error))

    def _keep(self, candidate: Candidate, **changes: Any) -> None:
        self._infos[candidate.name, candidate.distribution] = candidate.info(**changes)

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


def _settled(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """What a hook answers; a generator's items are taken while the guard is still on."""
    value = function(*arguments)
    return list(value) if hasattr(value, "__next__") else value
