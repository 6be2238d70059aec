"""Where a patched value is kept, read and written so that nothing but the value changes.

An attribute of a module, class or instance, or an item of a container. Descriptors are seen as they
are, lazy modules are not woken, and what was inherited is inherited again afterwards.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from accel.errors import TargetMissing
from accel.patching import importing


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT: Any = _Absent()


class Place:
    """`holder.name`, or `holder[name]` if `item`. Reading runs no property and binds no method."""

    def __init__(self, label: str, holder: Any, name: Any, item: bool = False) -> None:
        self.label = label
        self.holder = holder
        self.name = name
        self.item = item

    def same(self, other: Place) -> bool:
        return self.holder is other.holder and self.name == other.name and self.item is other.item

    def own(self) -> Any:
        """What the holder itself has there, inherited values not counted; or ABSENT."""
        if self.item:
            if isinstance(self.holder, list):
                return self.holder[self.name] if self.name < len(self.holder) else ABSENT
            inside = self.name in self.holder  # asked first: a defaultdict must not make one up
            return self.holder[self.name] if inside else ABSENT
        if isinstance(self.holder, type):
            return vars(self.holder).get(self.name, ABSENT)
        if self._described:
            return getattr(self.holder, self.name, ABSENT)
        return importing.namespace(self.holder).get(self.name, ABSENT)

    def seen(self) -> Any:
        """What reading finds: the holder's own, or else inherited, or a module's `__getattr__`."""
        if self.item or self.own() is not ABSENT:
            return self.own()
        if isinstance(self.holder, type):
            owners = (vars(cls) for cls in self.holder.__mro__)
            return next((names[self.name] for names in owners if self.name in names), ABSENT)
        return getattr(self.holder, self.name, ABSENT)

    def write(self, value: Any) -> None:
        """Put `value` there; ABSENT takes away what the holder itself has."""
        if self.item:
            if value is not ABSENT:
                self.holder[self.name] = value
            elif self.own() is not ABSENT:
                del self.holder[self.name]
        elif isinstance(self.holder, type):
            if value is not ABSENT:
                type.__setattr__(self.holder, self.name, value)
            elif self.own() is not ABSENT:
                type.__delattr__(self.holder, self.name)
        elif self._described:
            setattr(self.holder, self.name, value)
        else:
            names = object.__getattribute__(self.holder, "__dict__")
            if value is not ABSENT:
                names[self.name] = value
            else:
                names.pop(self.name, None)

    @property
    def is_global(self) -> bool:
        """A name at the top level of a module."""
        return isinstance(self.holder, ModuleType) and not self.item

    @property
    def _described(self) -> bool:
        """Whether a slot or property of the instance's class keeps the value."""
        descriptor = inspect.getattr_static(type(self.holder), self.name, None)
        return hasattr(type(descriptor), "__set__")


def locate(module: ModuleType, path: str, label: str) -> Place:
    """The place `path` names in `module`: `name`, `Class.method`, `TABLE[key]`.

    Raises TargetMissing where a step on the way is not there; the last one may be missing.
    """
    path, bracket, key = path.partition("[")
    steps = path.split(".") if bracket else path.split(".")[:-1]
    holder: Any = module
    for step in steps:
        try:
            holder = getattr(holder, step)
        except AttributeError as error:
            raise TargetMissing(f"{label} is not there", found=str(error)) from None
    if not bracket:
        return Place(label, holder, path.rpartition(".")[2])
    key = key.removesuffix("]").strip("'\"")
    return Place(label, holder, int(key) if isinstance(holder, list) else key, item=True)


def bare(raw: Any) -> Any:
    """The function in a staticmethod or classmethod; anything else as it is."""
    return raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw


def lives_in(module: ModuleType, value: Any) -> bool:
    """Whether `value` is a function, class, module or the like from `module`'s own package.

    Constants (also shared ones, such as a dtype) and what the module merely borrowed are not.
    """
    if isinstance(value, ModuleType):
        home: Any = importing.namespace(value).get("__name__")
    elif callable(value):
        home = getattr(value, "__module__", None)
        if home is None:  # a built-in method: where its object comes from
            keeper = getattr(value, "__self__", None)
            home = getattr(keeper if isinstance(keeper, type) else type(keeper), "__module__", None)
    else:
        return False
    here = str(importing.namespace(module).get("__name__"))
    return isinstance(home, str) and home.partition(".")[0] == here.partition(".")[0]


def alike(one: Any, other: Any) -> bool:
    """The same object; equal is enough for text, which `os.environ` makes anew at each reading."""
    return one is other or (isinstance(one, str) and isinstance(other, str) and one == other)
