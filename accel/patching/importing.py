"""Called back right after a module was imported; and who has copied what from a module.

    waiting = when_imported("package.module", callback)   # callback(module), now if it is there
    waiting.cancel()

A finder stands in front of `sys.meta_path` while anything waits, and only then. It lends the
module it waits for a loader that hands everything through to the real one and takes itself out
again before the module's first line runs. A module that something is importing just now is told
apart from one that is complete, and its end is seen too. What gets in by another door (a loader
without `exec_module`, an assignment to `sys.modules`) is noticed at the next import, or by
`flush()`.

Callbacks run in the importing thread, inside the import: nobody sees the module before they ran.
What they raise is kept in `Waiting.error` and logged; the import goes on.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

_log = logging.getLogger("accel")
_lock = threading.RLock()
_waiting: dict[str, list[Waiting]] = {}
_executing: list[str] = []


class Waiting:
    """One callback that waits for one module. `done` once it was called; `error` if it raised."""

    def __init__(self, name: str, callback: Callable[[ModuleType], None]) -> None:
        self.name = name
        self.done = False
        self.error: BaseException | None = None
        self._callback = callback

    def cancel(self) -> bool:
        """Wait no longer. False if there was nothing to cancel: called, or cancelled, before."""
        with _lock:
            others = _waiting.get(self.name, [])
            if self not in others:
                return False
            others.remove(self)
            if not others:
                del _waiting[self.name]
                _release_lazy(self.name)
            _stand_down()
            return True

    def _call(self, module: ModuleType) -> None:
        self.done = True
        try:
            self._callback(module)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - not our import to break
            self.error = error
            _log.warning("what waited for %s failed", self.name, exc_info=error)


def when_imported(name: str, callback: Callable[[ModuleType], None]) -> Waiting:
    """Call `callback(module)` once module `name` is imported: now, if it is complete already.

    The module is what `sys.modules` holds after the import, so a module that replaces itself there
    arrives as its replacement. A namespace package counts as imported like any other.
    """
    waiting = Waiting(name, callback)
    with _lock:
        _waiting.setdefault(name, []).append(waiting)
        if finished(name) is None:
            _watch_unfinished(name)
            if _finder not in sys.meta_path:
                sys.meta_path.insert(0, _finder)
    flush()
    return waiting


def flush() -> None:
    """Call what waits for modules that have been completed unnoticed. Cheap; safe at any time."""
    for name in list(_waiting):
        if finished(name) is not None:
            _fire(name)


def finished(name: str) -> ModuleType | None:
    """The module if it is in `sys.modules` and ran to its end; asking triggers nothing."""
    module = sys.modules.get(name)
    if module is None or name in _executing or _is_lazy(module):
        return None
    return None if getattr(_spec_of(module), "_initializing", False) else module


def namespace(module: object) -> dict[str, Any]:
    """The `__dict__` of whatever stands in `sys.modules`; lazy modules are not woken by this."""
    try:
        found = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def _spec_of(module: object) -> Any:
    return namespace(module).get("__spec__")


def _is_lazy(module: object) -> bool:
    """Whether importlib's own LazyLoader made it and nobody has touched it yet."""
    kind = type(module)
    return kind.__name__ == "_LazyModule" and kind.__module__ == "importlib.util"


def _fire(name: str) -> None:
    with _lock:
        due = _waiting.pop(name, [])
        _stand_down()
    for waiting in due:
        waiting._call(sys.modules[name])


def _stand_down() -> None:
    if not _waiting and _finder in sys.meta_path:
        # a new list, because another thread may be walking the old one and would miss a finder
        sys.meta_path = [finder for finder in sys.meta_path if finder is not _finder]


class _Watching:
    """Stands in for a loader until the module is executed; in all else it is that loader."""

    def __init__(self, loader: Any) -> None:
        self._watched = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watched, name)

    @property  # type: ignore[misc]  # isinstance() must answer as it does for the real one
    def __class__(self) -> type:
        return type(self._watched)

    def __eq__(self, other: object) -> bool:
        return bool(self._watched == (other._watched if type(other) is _Watching else other))

    def __hash__(self) -> int:
        return hash(self._watched)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._watched.__reduce_ex__(protocol)

    def exec_module(self, module: ModuleType) -> None:
        spec = _spec_of(module)
        name = str(spec.name)
        spec.loader = self._watched
        if namespace(module).get("__loader__") is self:
            namespace(module)["__loader__"] = self._watched
        _executing.append(name)
        try:
            self._watched.exec_module(module)
        finally:
            _executing.remove(name)
        if name in sys.modules:
            _fire(name)


class _WatchedSpec(ModuleSpec):
    """The spec of a module that is being imported by somebody: it notices when that ends.

    importlib sets `_initializing` to False as the last thing; an interpreter that no longer did
    would leave the module to the next import's `flush`.
    """

    @property
    def _initializing(self) -> bool:
        return bool(self.__dict__.get("_initializing", False))

    @_initializing.setter
    def _initializing(self, value: bool) -> None:
        self.__dict__["_initializing"] = value
        if not value:
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            flush()


def _lend(spec: Any) -> None:
    if hasattr(spec.loader, "exec_module") and type(spec.loader) is not _Watching:
        spec.loader = _Watching(spec.loader)


def _watch_unfinished(name: str) -> None:
    """See to it that the end of an import in progress, or of a lazy one to come, is noticed."""
    module = sys.modules.get(name)
    spec = _spec_of(module)
    if spec is None:
        return
    if _is_lazy(module):
        _lend(spec)
    elif type(spec) is ModuleSpec:
        spec.__class__ = _WatchedSpec


def _release_lazy(name: str) -> None:
    module = sys.modules.get(name)
    spec = _spec_of(module)
    if _is_lazy(module) and type(spec.loader) is _Watching:
        spec.loader = spec.loader._watched


class _Finder:
    """In front of `sys.meta_path`: finds nothing itself, lends a loader to what is waited for."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        flush()
        if name not in _waiting:
            return None
        spec = self._ask_others(name, path, target)
        if spec is None:
            return None
        if spec.loader is None:  # a namespace package: nothing of it is executed
            if type(spec) is ModuleSpec:
                spec.__class__ = _WatchedSpec
        else:
            _lend(spec)
        return spec

    def _ask_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        finders: list[Any] = list(sys.meta_path)
        if self in finders:  # those in front of this one were asked already
            del finders[: finders.index(self) + 1]
        for finder in finders:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                return spec
        return None


_finder: Any = _Finder()


class Rebinding(NamedTuple):
    """Names bound to `old` are to be bound to `new`; `keep(namespace, name)` exempts one."""

    old: Any
    new: Any
    keep: Callable[[dict[str, Any], str], bool]


class Binding(NamedTuple):
    """A name at the top level of a module, as `sys.modules` knew it."""

    label: str
    module: Any
    name: str


def bindings(values: Iterable[Any]) -> list[tuple[Any, Binding]]:
    """Every top-level name, of every module in `sys.modules`, that is bound to one of `values`.

    One pass for all of them, by identity, through `__dict__` only: lazy modules stay asleep and
    properties are not run. Modules may come, go and change in the meantime.
    """
    wanted = {id(value): value for value in values}
    found: list[tuple[Any, Binding]] = []
    seen: set[int] = set()
    for module_name, module in list(sys.modules.items()) if wanted else ():
        names = namespace(module)
        if id(names) in seen or wanted.keys().isdisjoint(map(id, list(names.values()))):
            continue
        seen.add(id(names))
        for name, value in list(names.items()):
            if id(value) in wanted:
                found.append((value, Binding(f"{module_name}:{name}", module, name)))
    return found


class Holders:
    """Who is bound to what, asked many times in a row; most answers are "nobody".

    After the first few questions one pass remembers everything that any module is bound to. What
    a module that was there already binds later is not seen then, and need not be.
    """

    FEW = 3

    def __init__(self) -> None:
        self._asked = 0
        self._modules = 0
        self._held: set[int] = set()

    def of(self, value: Any) -> set[tuple[int, str]]:
        """The names bound to `value`, each with the id of its module's namespace."""
        self._asked += 1
        if self._asked > self.FEW and id(value) not in self._everything():
            return set()
        return {(id(namespace(found.module)), found.name) for _, found in bindings([value])}

    def _everything(self) -> set[int]:
        if self._modules != len(sys.modules):
            self._modules = len(sys.modules)
            for module in list(sys.modules.values()):
                self._held.update(map(id, list(namespace(module).values())))
        return self._held


def rebind(changes: Iterable[Rebinding]) -> list[tuple[Rebinding, Binding]]:
    """Rebind such names from each `old` to its `new`, in one pass for all; tells what it did."""
    wanted = {id(change.old): change for change in changes if change.old is not change.new}
    done: list[tuple[Rebinding, Binding]] = []
    for old, binding in bindings(change.old for change in wanted.values()):
        change = wanted[id(old)]
        names = namespace(binding.module)
        if names.get(binding.name) is old and not change.keep(names, binding.name):
            names[binding.name] = change.new
            done.append((change, binding))
    return done


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
