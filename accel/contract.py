"""Whether what a plugin answered is of the kind that the hook asks for, in every field too.

Python takes anything for a field. A name where a number should be would raise far from the plugin
that gave it, in a sort or a report, and take everybody else's answers with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

from accel.value import Value
from accel.values import Feature, Impl, Level, Probe, Stage

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any, NamedTuple, TypeVar

    from accel.loading import Plugins

    V = TypeVar("V", bound=Value)

    class Expected(NamedTuple):
        """What a field may hold: an instance of `kinds`, each item of which is text if `texts`."""

        kinds: Any
        texts: bool
        words: str

else:
    from collections import namedtuple

    Expected = namedtuple("Expected", ["kinds", "texts", "words"])

_KINDS: Mapping[str, tuple[Any, ...]] = {
    "None": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "Literal": (str,),
    "Confidence": (str,),
    "tuple": (tuple, list),
    "Mapping": (Mapping,),
    "Callable": (Callable,),
    "Feature": (Feature,),
    "Stage": (Stage,),
    "Level": (Level,),
    "Probe": (Probe,),
    "Impl": (Impl,),
}
"""What an annotation begins with, and what it admits; a field of any other is not looked at."""
_TEXTS = "tuple[str, ...]"


def checked(known: Plugins, owner: str, hook: str, value: Any, kind: type[V]) -> list[V]:
    """A hook's answer as a list of `kind`; a plugin that answers anything else is noted."""
    if value is None:
        return []
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        known.fail(owner, f"answered {hook} with {brief(value)}, not a list of {kind.__name__}")
        return []
    items = list(value)
    for item in items:
        if not isinstance(item, kind):
            said = f"{brief(item)} in the list, not {kind.__name__}"
        elif (problem := misfit(item)) is not None:
            said = f"a {kind.__name__} whose {problem}"
        else:
            continue
        known.fail(owner, f"answered {hook} with {said}")
        return []
    return items


def misfit(value: Value) -> str | None:
    """The first field that holds what it may not, in words; None where all are as they should."""
    kind: Any = type(value)
    for name, expected in _fields(kind):
        given: Any = getattr(value, name)
        if not isinstance(given, expected.kinds):
            return f"{name} is {brief(given)}, not {expected.words}"
        if expected.texts and not all(isinstance(item, str) for item in given):
            return f"{name} is {brief(given)}, not {expected.words}"
        inner = misfit(given) if isinstance(given, Value) else None
        if inner is not None:
            return f"{name}.{inner}"
    return None


def brief(value: object) -> str:
    """A value and its type on one line of an error."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


@functools.cache
def _fields(kind: Any) -> tuple[tuple[str, Expected], ...]:
    """Each field of a class whose annotation is understood."""
    found = []
    for name, annotation in kind._types.items():
        heads = _heads(str(annotation))
        if heads <= _KINDS.keys():
            kinds = tuple(one for head in sorted(heads) for one in _KINDS[head])
            found.append((name, Expected(kinds, annotation == _TEXTS, str(annotation))))
    return tuple(found)


def _heads(annotation: str) -> frozenset[str]:
    """The alternatives of `Mapping[str, str | None] | None`, without what stands in brackets."""
    kept, depth = [], 0
    for letter in annotation:
        depth += (letter == "[") - (letter == "]")
        if depth == 0 and letter != "]":
            kept.append(letter)
    return frozenset(part.strip() for part in "".join(kept).split("|"))
