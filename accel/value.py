"""Frozen records that are cheap to define: what dataclasses are, without their code generation.

A dataclass compiles five functions for each class, and `dataclasses` itself imports `inspect`: most
of what a bare `accel.devices()` used to cost. A Value writes nothing: its methods are here, once.
Towards others it is a frozen dataclass: `dataclasses.fields`, `replace`, `asdict` and type checkers
take it for one.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    import dataclasses
    from typing import Any, ClassVar, TypeVar

    from typing_extensions import dataclass_transform

    V = TypeVar("V", bound="Value")
else:

    def dataclass_transform(**_: Any) -> Any:  # noqa: D103
        return lambda cls: cls


class _Absent:
    def __repr__(self) -> str:
        return "no default"


_ABSENT = _Absent()


class _Field:
    """A field that is left out of comparison or hash; otherwise a plain default does."""

    def __init__(self, default: Any, *, compare: bool, hash: bool) -> None:  # noqa: A002
        self.default, self.compare, self.hash = default, compare, hash


def field(*, default: Any = _ABSENT, compare: bool = True, hash: bool = True) -> Any:  # noqa: A002
    """A field's default, and whether it counts when two values are compared or hashed."""
    return _Field(default, compare=compare, hash=compare and hash)


class _AsDataclass:
    """What `dataclasses` looks for on a class, made by itself when first asked for."""

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute

    def __get__(self, instance: object, owner: type[Value]) -> Any:
        import dataclasses

        twin = dataclasses.make_dataclass(
            owner.__name__,
            [(name, owner._types[name], _as_field(spec)) for name, spec in owner._specs.items()],
            frozen=True,
            kw_only=not owner._positional,
        )
        made = getattr(twin, self.attribute)
        setattr(owner, self.attribute, made)
        return made


def _as_field(spec: _Field) -> Any:
    import dataclasses

    options: dict[str, Any] = {"compare": spec.compare, "hash": spec.hash}
    if spec.default is not _ABSENT:
        # a factory, because dataclasses refuse defaults without a hash, as a mapping proxy may be
        options["default_factory"] = lambda: spec.default
    return dataclasses.field(**options)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Value:
    """A frozen record of the annotated fields of its class.

    Fields are given by name; in a class with `kw_only=False` by position too. Raises TypeError for
    a field that is unknown or missing, and FrozenInstanceError on assignment, as dataclasses do.
    """

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    _specs: ClassVar[dict[str, _Field]] = {}
    _types: ClassVar[dict[str, Any]] = {}
    _defaults: ClassVar[dict[str, Any]] = {}
    _required: ClassVar[frozenset[str]] = frozenset()
    _positional: ClassVar[bool] = False

    def __init_subclass__(cls, *, kw_only: bool = True) -> None:
        own = cls.__annotations__  # never those of a base: a class has its own, empty or not
        specs = dict(cls._specs)
        for name, kind in own.items():
            if str(kind).startswith("ClassVar"):
                continue
            default = vars(cls).get(name, _ABSENT)
            spec = default if isinstance(default, _Field) else field(default=default)
            if isinstance(default, _Field):
                delattr(cls, name)
                if spec.default is not _ABSENT:
                    setattr(cls, name, spec.default)
            specs[name] = spec
        cls._specs, cls._positional = specs, not kw_only
        cls._types = {**cls._types, **own}
        cls._defaults = {n: s.default for n, s in specs.items() if s.default is not _ABSENT}
        cls._required = frozenset(specs.keys() - cls._defaults.keys())
        type.__setattr__(cls, "__match_args__", () if kw_only else tuple(specs))
        for attribute in ("__dataclass_fields__", "__dataclass_params__"):
            setattr(cls, attribute, _AsDataclass(attribute))

    def __init__(self, *given: Any, **named: Any) -> None:
        cls = type(self)
        if given:
            named = cls._by_position(given, named)
        if not named.keys() >= cls._required or not named.keys() <= cls._specs.keys():
            raise cls._misfit(named)
        vars(self).update(cls._defaults, **named)

    @classmethod
    def _by_position(cls, given: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        placed = dict(zip(cls._specs if cls._positional else (), given, strict=False))
        if len(placed) < len(given):
            most = len(cls._specs) if cls._positional else 0
            raise TypeError(f"{cls.__name__}() takes {most} positional arguments, not {len(given)}")
        twice = sorted(placed.keys() & named.keys())
        if twice:
            raise TypeError(f"{cls.__name__}() got multiple values for {', '.join(twice)}")
        return {**placed, **named}

    @classmethod
    def _misfit(cls, named: dict[str, Any]) -> TypeError:
        unknown = [name for name in named if name not in cls._specs]
        if unknown:
            return TypeError(f"{cls.__name__}() has no field {', '.join(map(repr, unknown))}")
        missing = [name for name in cls._specs if name in cls._required - named.keys()]
        return TypeError(f"{cls.__name__}() lacks {', '.join(map(repr, missing))}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise _frozen(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise _frozen(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        mine, others = vars(self), vars(other)
        return mine is others or all(
            mine[name] == others[name] for name, spec in self._specs.items() if spec.compare
        )

    def __hash__(self) -> int:
        mine = vars(self)
        return hash(tuple(mine[name] for name, spec in self._specs.items() if spec.hash))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={vars(self)[name]!r}" for name in self._specs)
        return f"{type(self).__qualname__}({shown})"

    def __replace__(self: V, /, **changes: Any) -> V:
        return replaced(self, **changes)


def replaced(value: V, **changes: Any) -> V:
    """The value with some fields changed: `dataclasses.replace` without its import."""
    mine = vars(value)
    return type(value)(**{**{name: mine[name] for name in value._specs}, **changes})


def field_names(value: Value | type[Value]) -> tuple[str, ...]:
    """The names of a value's fields, in the order of their definition."""
    return tuple(value._specs)


def _frozen(message: str) -> AttributeError:
    from dataclasses import FrozenInstanceError

    return FrozenInstanceError(message)
