"""What is patched, and how it is given back: doors, layers, slots.

A *slot* is one pristine value, the places it was taken from, and the layers over it, one for each
patch of whatever owner or journal; a layer taken out of the middle makes the ones above it anew.
A plain function is replaced by a *door*, which passes calls on to the topmost layer, and to the
original once all layers are gone: whoever kept the door (a wrapper that another library put around
it, say) is left with a function that does what the original does.

Other modules' names bound to the original follow it, if the target is where the original lives: the
same top-level package. A name that the target's module borrowed from elsewhere (`trainer:Popen`) is
replaced in that one place.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from accel.patching import importing
from accel.patching.places import ABSENT, Place, alike, bare, lives_in
from accel.values import Level, Note

_LRU_CACHE = type(functools.lru_cache(lambda: None))
_BEHIND_A_DOOR = (FunctionType, BuiltinFunctionType, _LRU_CACHE)


def _dressed(made: Any, raw: Any) -> Any:
    """`made` as the same kind of method as `raw` is, unless it is some kind of method already."""
    if isinstance(raw, (staticmethod, classmethod)) and callable(made):
        return made if isinstance(made, (staticmethod, classmethod, type)) else type(raw)(made)
    return made


def _door(original: Any) -> tuple[Any, Callable[[Any], None]]:
    """A function that looks like `original` and calls what it was last aimed at, and the aiming."""
    target = original

    def door(*args: Any, **kwargs: Any) -> Any:
        return target(*args, **kwargs)

    def aim(function: Any) -> None:
        nonlocal target
        target = function

    functools.update_wrapper(door, original)
    if isinstance(original, _LRU_CACHE):
        for name in ("cache_info", "cache_clear", "cache_parameters"):
            setattr(door, name, getattr(original, name))
    mark = getattr(inspect, "markcoroutinefunction", None)
    if mark is not None and inspect.iscoroutinefunction(original):
        mark(door)
    return door, aim


class Layer:
    """One patch's replacement in a slot. `failed` is told if it cannot be made anew."""

    def __init__(
        self, replace: Callable[[Any], Any], made: Any, failed: Callable[[BaseException], None]
    ) -> None:
        self.replace = replace
        self.made = made
        self.failed = failed


class Slot:
    """A pristine value, where it was, and what lies over it. Change it only through a `Changes`."""

    def __init__(self, place: Place, raw: Any) -> None:
        self.base = raw
        self.public = raw
        self.layers: list[Layer] = []
        self.places: list[tuple[Place, Any]] = [(place, place.own())]
        self.spreads = place.is_global and lives_in(place.holder, raw)
        self._door: tuple[Any, Callable[[Any], None]] | None = None
        self._clothes: Any = None
        self._natives: set[tuple[int, str]] = set()

    @property
    def top(self) -> Any:
        """What the next layer's `replace` is given."""
        return self.layers[-1].made if self.layers else bare(self.base)

    @property
    def place(self) -> Place:
        return self.places[0][0]

    def has(self, place: Place) -> bool:
        return any(place.same(mine) for mine, _ in self.places)

    def enter(self, place: Place) -> None:
        """Another way to this slot: given back like the first one."""
        if not self.has(place):
            former = place.own()
            self.places.append((place, former if former is ABSENT else self.base))

    def face(self) -> Any:
        """What is to be bound at the places, given the layers."""
        if not self.layers:
            self._aim(bare(self.base))
            return self.base
        top = self.top
        if isinstance(top, FunctionType) and isinstance(bare(self.base), _BEHIND_A_DOOR):
            if self._door is None:
                self._door = _door(bare(self.base))
                if isinstance(bare(self.base), BuiltinFunctionType) and self.place.is_global:
                    # pickle goes by these; a builtin's may be a hidden class's, or None
                    self._door[0].__qualname__ = self.place.name
                    self._door[0].__module__ = self.place.holder.__name__
                self._clothes = _dressed(self._door[0], self.base)
            self._aim(top)
            return self._clothes
        self._aim(top)
        return _dressed(top, self.base)

    def _aim(self, target: Any) -> None:
        if self._door is not None and callable(target):
            self._door[1](target)

    def undressed(self, made: Any) -> Any:
        """The function in `made`, if it is the kind of method that the original is.

        A replacement that found this very door under the original's name is no replacement.
        """
        if self._door is not None and bare(made) is self._door[0]:
            return self.top
        return bare(made) if type(made) is type(self.base) else made

    def remake(self, start: int) -> list[BaseException]:
        """Make the layers from `start` up anew on what lies below. One that raises falls out."""
        errors: list[BaseException] = []
        layers, self.layers = self.layers[start:], self.layers[:start]
        for layer in layers:
            try:
                layer.made = self.undressed(layer.replace(self.top))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin's code: it is reported
                layer.failed(error)
                errors.append(error)
            else:
                self.layers.append(layer)
        return errors

    def note_natives(self, value: Any, holders: importing.Holders) -> None:
        """Remember who was bound to a ready-made replacement already: theirs are left alone."""
        self._natives = holders.of(value)

    def keeps(self, old: Any, names: dict[str, Any], name: str) -> bool:
        """Whether a name bound to `old` is to stay as it is when the slot's face changes.

        A replacement that calls the original by a name of its own module must not come to call
        itself. A ready-made replacement has a life of its own under its own names.
        """
        if old is not self.base and self._natives:
            return (id(names), name) in self._natives or name != self.place.name
        made = (layer.made for layer in self.layers if isinstance(layer.made, FunctionType))
        return any(f.__globals__ is names and name in f.__code__.co_names for f in made)

    def carries(self, other: Slot, old: Any) -> bool:
        """Whether `other`, whose base is `old`, got it from here and must follow this slot."""
        place, former = other.places[0]
        if self.is_door(old):
            return True
        mine = self.place.holder
        if former is ABSENT and isinstance(place.holder, type) and isinstance(mine, type):
            return issubclass(place.holder, mine) and place.name == self.place.name
        names = importing.namespace(place.holder)
        return self.spreads and place.is_global and not self.keeps(old, names, place.name)

    def owns(self, place: Place, raw: Any) -> bool:
        """Whether a patch that finds `raw` at `place` is one more layer of this slot."""
        if self.place.same(place) and alike(raw, self.public):
            return True
        known = raw is self.public or raw is self.base
        return known and self.spreads and place.is_global and lives_in(place.holder, self.base)

    def is_door(self, value: Any) -> bool:
        return self._door is not None and value is self._clothes


_live: list[Slot] = []


def slot_for(place: Place, raw: Any) -> Slot:
    """The live slot that `raw`, found at `place`, belongs to; or a new one."""
    found = next((slot for slot in reversed(_live) if slot.owns(place, raw)), None)
    return found or Slot(place, raw)


class Changes:
    """A batch of changes to slots. `spread` ends it with one pass over all modules."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.origin = ""
        self._pending: dict[int, tuple[Slot, Any, Any]] = {}
        self._holders = importing.Holders()

    def push(self, slot: Slot, place: Place, layer: Layer) -> None:
        """Lay `layer` on top. Whatever this raises, all is as it was before."""
        places = list(slot.places)
        slot.enter(place)
        slot.layers.append(layer)
        if slot not in _live:
            _live.append(slot)
        try:
            self._publish(slot)
        except BaseException:
            slot.places = places
            self.drop(slot, layer)
            raise

    def drop(self, slot: Slot, layer: Layer) -> None:
        """Take `layer` out, wherever it lies; the last one gives everything back."""
        if layer in slot.layers:
            index = slot.layers.index(layer)
            del slot.layers[index]
            self._settle(slot, index)

    def spread(self) -> None:
        """Rebind what other modules had copied, also those that have turned up since."""
        pending, self._pending = self._pending, {}
        for slot in _live if pending else ():
            if slot.spreads:
                pending.setdefault(id(slot.base), (slot, slot.base, slot.public))
        rebindings = [
            importing.Rebinding(old, new, functools.partial(slot.keeps, old))
            for slot, old, new in pending.values()
        ]
        for rebinding, found in importing.rebind(rebindings):
            slot = pending[id(rebinding.old)][0]
            place = Place(found.label, found.module, found.name)
            if slot in _live and not slot.has(place):
                slot.places.append((place, slot.base))

    def _settle(self, slot: Slot, start: int) -> None:
        for error in slot.remake(start):
            message = f"a replacement could not be made anew without the one below it: {error!r}"
            self.note(Level.ERROR, slot.place.label, message)
        if slot.layers:
            self._publish(slot)
        else:
            self._close(slot)

    def _publish(self, slot: Slot) -> None:
        old, new = slot.public, slot.face()
        if new is not old and _traceable(new) and not slot.is_door(new):
            slot.note_natives(new, self._holders)
        slot.public = new  # before it is written: if that fails, what was written is known as ours
        for place, former in slot.places:
            here = place.own()
            ours = alike(here, old) or here is slot.base or here is former
            if ours and here is not new:
                place.write(new)
        self._tell(slot, old, new)

    def _close(self, slot: Slot) -> None:
        _live.remove(slot)
        old, slot.public = slot.public, slot.face()
        self._tell(slot, old, slot.base)
        for index, (place, former) in enumerate(slot.places):
            here = place.own()
            if alike(here, former) or (here is ABSENT and index):
                continue  # given back already, or a name its own module has deleted
            try:
                self._give_back(slot, place, former, ours=alike(here, old))
            except Exception as error:  # noqa: BLE001 - anyone's __setattr__: the other places matter as much
                self.note(Level.ERROR, place.label, f"could not be given back: {error!r}")

    def _give_back(self, slot: Slot, place: Place, former: Any, *, ours: bool) -> None:
        if ours:
            place.write(former)
            return
        above = next((other for other in _live if other.has(place)), None)
        if above is None:
            displaced = place.own()
            place.write(former)
        else:
            displaced = next(was for mine, was in above.places if mine.same(place))
            above.places = [
                (mine, former if mine.same(place) else was) for mine, was in above.places
            ]
            if above.place.same(place):
                self._rebase(above, slot.base)
        if not alike(displaced, former):
            self.note(
                Level.WARNING,
                place.label,
                f"{_describe(displaced)} had been put over accel's replacement by someone else; "
                "the original is back and that change is gone",
            )

    def _tell(self, slot: Slot, old: Any, new: Any) -> None:
        """Let the names, and the slots, that hold the former face follow."""
        if alike(old, new):
            return
        if slot.spreads or (_traceable(old) and old is not slot.base):
            for key, (owner, first, last) in list(self._pending.items()):
                if owner is slot and last is old:
                    self._pending[key] = (slot, first, new)
            self._pending[id(old)] = (slot, old, new)
        for other in list(_live):
            if other is slot or other not in _live or other.base is not old:
                continue
            if slot.carries(other, old):
                self._rebase(other, new)

    def _rebase(self, slot: Slot, base: Any) -> None:
        old, slot.base = slot.base, base
        slot.places = [(place, base if was is old else was) for place, was in slot.places]
        self._settle(slot, 0)

    def note(self, level: Level, subject: str, message: str) -> None:
        """Something the user is to know about `subject`."""
        self.notes.append(Note(level=level, subject=subject, message=message, origin=self.origin))


def _traceable(value: Any) -> bool:
    """Whether finding the very object somewhere means that it came from the slot: no constants."""
    return callable(value) or isinstance(value, ModuleType)


def _describe(value: Any) -> str:
    name = getattr(value, "__qualname__", None)
    return f"{getattr(value, '__module__', '?')}.{name}" if name else repr(value)[:80]
