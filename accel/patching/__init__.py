"""The patch engine: a journal that applies patches, says what became of each, and undoes them all.

Nothing a patch does or raises gets out of here: a patch that cannot be applied is an entry that
says why, and leaves nothing behind. Patches for a module that is not imported yet, or not to its
end, wait for it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, Literal

from accel import versions
from accel.errors import PatchConflict, PatchError, TargetMissing, VersionMismatch
from accel.patching import importing
from accel.patching.places import ABSENT, Place, alike, bare, locate
from accel.patching.slots import Changes, Layer, Slot, slot_for
from accel.value import Value
from accel.values import Level, Note, Patch

State = Literal["applied", "waiting", "skipped", "failed", "reverted"]

IMPORT_PATIENCE = 5.0
"""Seconds an import waits for another thread's `apply` or `revert`, which may wait for it."""

_lock = threading.RLock()
_late: list[Callable[[], None]] = []
_forking: list[bool] = []


class Entry(Value, kw_only=False):
    """What became of a patch. `also` are the other names that were rebound, as `module:name`."""

    patch: Patch
    state: State
    detail: str
    also: tuple[str, ...]


class _Record:
    def __init__(self, patch: Patch) -> None:
        self.patch = patch
        self.state: State = "skipped"
        self.detail = ""
        self.layers: list[tuple[Slot, Layer]] = []
        self.undo: Callable[[], None] | None = None
        self.waiting: importing.Waiting | None = None
        self.forgotten = False

    def entry(self) -> Entry:
        names = {place.label for slot, _ in self.layers for place, _ in slot.places}
        also = tuple(sorted(names - {self.patch.target})) if self.patch.environ is None else ()
        return Entry(self.patch, self.state, self.detail, also)

    def fail(self, error: BaseException) -> None:
        self.state = "failed"
        self.detail = f"{type(error).__name__}: {error}"


class Journal:
    """The patches of one `auto()`: each with its outcome, and the way back."""

    def __init__(self) -> None:
        self._records: list[_Record] = []

    @property
    def entries(self) -> tuple[Entry, ...]:
        """One for each patch, in the order they came; optional ones without a target left out."""
        with _lock:
            return tuple(record.entry() for record in self._records if not record.forgotten)

    def apply(self, patches: Iterable[Patch], *, version: Callable[[str], str | None]) -> None:
        """Apply what can be applied now, and let the rest wait for its module.

        `version(distribution)` is the installed version, or None. Never raises for a patch's sake.
        """
        with _alone():
            changes = Changes()
            waiting: dict[str, list[_Record]] = {}
            for patch in patches:
                record = _Record(patch)
                self._records.append(record)
                with _contained(record):
                    _check(patch)
                    _check_version(patch, version)
                    module = importing.finished(patch.module)
                    if patch.environ is None and module is None:
                        record.state, record.detail = "waiting", f"until {patch.module} is imported"
                        waiting.setdefault(patch.module, []).append(record)
                    else:
                        _apply(record, module, changes)
            changes.spread()
            for name, records in waiting.items():
                _defer(name, records)

    def revert(self, owner: str | None = None) -> tuple[Note, ...]:
        """Undo, last first; only `owner`'s patches if named. Twice is harmless.

        Every binding is the identical object again. What somebody else had put over a
        replacement is gone then, and a note of level WARNING names it.
        """
        with _alone():
            changes = Changes()
            for record in reversed(self._records):
                if owner is None or record.patch.owner == owner:
                    _undo(record, changes)
            changes.spread()
            still = {record.waiting for record in self._records if record.state == "waiting"}
            for waiting in {record.waiting for record in self._records} - still:
                if waiting is not None:
                    waiting.cancel()
        return tuple(changes.notes)


def flush() -> None:
    """Apply what waits for modules that have been completed unnoticed (see `importing`)."""
    importing.flush()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    with _lock:
        try:
            yield
        finally:
            _catch_up()


def _catch_up() -> None:
    while _late:
        _late.pop(0)()


@contextlib.contextmanager
def _contained(record: _Record) -> Iterator[None]:
    """Make whatever a patch raises its record's outcome."""
    try:
        yield
    except (TargetMissing, VersionMismatch) as reason:
        record.state, record.detail = "skipped", str(reason)
        record.forgotten = record.patch.optional and isinstance(reason, TargetMissing)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin's code: the entry names it
        record.fail(error)


def _check(patch: Patch) -> None:
    ways = [way for way in (patch.replace, patch.seam, patch.environ) if way is not None]
    if len(ways) != 1:
        raise PatchConflict(
            f"the patch of {patch.target} must do exactly one thing",
            found=f"{len(ways)} of replace, seam, environ",
            remedy="give one of them",
        )
    malformed = not patch.module or (patch.replace is not None) != bool(patch.attribute)
    if malformed and patch.environ is None:
        raise PatchError(
            f"the target of a {patch.how} cannot be {patch.target!r}",
            remedy="package.module:attribute.path" if patch.replace else "package.module",
        )


def _check_version(patch: Patch, version: Callable[[str], str | None]) -> None:
    if not (patch.distribution and patch.versions):
        return
    found = version(patch.distribution)
    if found is None:
        raise VersionMismatch(f"for {patch.distribution} {patch.versions}, which is not installed")
    if not versions.within(found, patch.versions):
        raise VersionMismatch(f"for {patch.distribution} {patch.versions}, here is {found}")


def _defer(name: str, records: list[_Record]) -> None:
    """Apply `records` once `name` is imported.

    Whoever holds the lock may itself be waiting for that import: after a while the import goes on,
    and the holder does the work when it is done.
    """

    def callback(module: ModuleType) -> None:
        _late.append(functools.partial(_arrive, records, module))
        lock = _lock
        if lock.acquire(timeout=IMPORT_PATIENCE) or lock.acquire(blocking=False):
            try:
                _catch_up()
            finally:
                lock.release()

    waiting = importing.when_imported(name, callback)
    for record in records:
        record.waiting = waiting


def _arrive(records: list[_Record], module: ModuleType) -> None:
    changes = Changes()
    for record in records:
        if record.state == "waiting":
            with _contained(record):
                _apply(record, module, changes)
    changes.spread()


def _apply(record: _Record, module: ModuleType | None, changes: Changes) -> None:
    patch = record.patch
    if patch.environ is not None:
        _set_environ(record, changes)
    elif patch.seam is not None:
        if patch.guard is not None and (reason := patch.guard(module)):
            record.state, record.detail = "skipped", reason
            return
        undo = patch.seam(module)
        if not callable(undo):
            raise PatchError(
                f"the seam of {patch.target} cannot be undone",
                found=f"it returned {undo!r}",
                remedy="return a function that takes the change back",
            )
        record.undo = undo
        record.state, record.detail = "applied", ""
    else:
        assert patch.replace is not None
        assert module is not None
        place = locate(module, patch.attribute, patch.target)
        refusal = _refusal(patch, slot_for(place, _found(place)))
        if refusal:
            record.state, record.detail = "skipped", refusal
            return
        _lay(record, place, patch.replace, changes)


def _found(place: Place) -> Any:
    raw = place.seen()
    if raw is ABSENT:
        raise TargetMissing(f"{place.label} is not there")
    return raw


def _refusal(patch: Patch, slot: Slot) -> str | None:
    """Why the patch does not fit what it found: by the original's parameters, or its guard."""
    if patch.parameters:
        try:
            known = inspect.signature(bare(slot.base)).parameters
        except (TypeError, ValueError) as error:
            return f"its parameters cannot be read: {error}"
        missing = [name for name in patch.parameters if name not in known]
        if missing:
            return f"has no parameter {', '.join(missing)}"
    return patch.guard(slot.top) or None if patch.guard is not None else None


def _lay(
    record: _Record,
    place: Place,
    replace: Callable[[Any], Any],
    changes: Changes,
    *,
    constant: bool = False,
) -> None:
    slot = slot_for(place, place.seen())
    made = slot.undressed(replace(slot.top))
    if made is slot.top and not constant:
        record.state, record.detail = "skipped", "not needed"
        return
    layer = Layer(replace, made, record.fail)
    changes.push(slot, place, layer)
    record.layers.append((slot, layer))
    record.state, record.detail = "applied", ""


def _set_environ(record: _Record, changes: Changes) -> None:
    """All of the variables, or none."""
    record.state, record.detail = "skipped", "not needed"
    try:
        for name, value in (record.patch.environ or {}).items():
            place = Place(f"os:environ[{name}]", os.environ, name, item=True)
            wanted = ABSENT if value is None else value
            slot = slot_for(place, place.own())
            if slot.layers or not alike(slot.base, wanted):
                _lay(record, place, functools.partial(_constant, wanted), changes, constant=True)
    except BaseException:
        _take_back(record, changes)
        raise


def _constant(value: Any, _below: Any) -> Any:
    return value


def _take_back(record: _Record, changes: Changes) -> None:
    for slot, layer in reversed(record.layers):
        changes.drop(slot, layer)


def _undo(record: _Record, changes: Changes) -> None:
    if record.state not in ("applied", "waiting"):
        return
    record.state, record.detail = "reverted", ""
    changes.origin = record.patch.owner
    undo, record.undo = record.undo, None
    try:
        _take_back(record, changes)
        if undo is not None:
            undo()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - anyone's code: the entry names it, the others go on
        record.fail(error)
        message = f"could not be undone: {record.detail}"
        changes.note(Level.ERROR, record.patch.target, message)


def _before_fork() -> None:
    _forking.append(_lock.acquire(timeout=1.0))


def _after_fork_in_parent() -> None:
    if _forking.pop():
        _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    _forking.clear()
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
