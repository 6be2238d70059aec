"""The form of a recording: what may stand where in an `accel-machine/1` document.

`check(document, refuse)` goes through a decoded document and calls `refuse(place, found, wanted)`,
which raises, at the first thing that is not as it must be.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

SCHEMA = "accel-machine/1"
DEEPEST = 64
"""Levels of nesting; a vendor's answer has four or five."""

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")

Refuse = Callable[[str, str, str], NoReturn]
_Check = Callable[[Any, str, Refuse], None]


def check(document: object, refuse: Refuse) -> None:
    """Refuse `document` unless it is a recording; nothing is returned and nothing changed."""
    if not isinstance(document, dict):
        refuse("", type(document).__name__, "an object")
    if document.get("schema") != SCHEMA:
        refuse("schema", repr(document.get("schema"))[:80], repr(SCHEMA))
    _check_plain(document, "", refuse, 0)
    _check_keys(document, _PARTS, "", refuse)
    for key, part in _PARTS.items():
        if key in document:
            part(document[key], key, refuse)


def _check_plain(value: Any, place: str, refuse: Refuse, depth: int) -> None:
    """JSON's own types only, not too deep, and text that can be written out again."""
    if depth > DEEPEST:
        refuse(place[:80], "nested too deeply", f"at most {DEEPEST} levels")
    if isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            refuse(place, "half a surrogate pair", "text")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_plain(key, f"a key of {place or 'the object'}", refuse, depth + 1)
            _check_plain(item, f"{place}.{key}" if place else key, refuse, depth + 1)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_plain(item, f"{place}[{number}]", refuse, depth + 1)
    elif value is not None and not isinstance(value, (bool, int, float)):
        refuse(place, type(value).__name__, "a value that JSON has")


def _check_keys(value: Any, known: Mapping[str, Any], place: str, refuse: Refuse) -> None:
    if not isinstance(value, dict):
        refuse(place, type(value).__name__, "an object")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            wanted = f"one of the keys {', '.join(known)}"
            refuse(place or "the document", f"{str(key)[:80]!r}{meant}", wanted)


def _one(kind: type, wanted: str, accept: Callable[[Any], object] = lambda value: True) -> _Check:
    def check(value: Any, place: str, refuse: Refuse) -> None:
        # bool is an int to Python, and `count: true` is a mistake.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            refuse(place, type(value).__name__, wanted)
        if not accept(value):
            refuse(place, repr(value)[:80], wanted)

    return check


def _object(fields: Mapping[str, _Check], required: Sequence[str] = ()) -> _Check:
    def check(value: Any, place: str, refuse: Refuse) -> None:
        _check_keys(value, fields, place, refuse)
        for key in required:
            if key not in value:
                refuse(place, f"no {key}", f"the key {key}")
        for key, item in value.items():
            fields[key](item, f"{place}.{key}", refuse)

    return check


def _map(item_check: _Check, accept: Callable[[str], object] = bool, wanted: str = "") -> _Check:
    def check(value: Any, place: str, refuse: Refuse) -> None:
        _one(dict, "an object")(value, place, refuse)
        for key, item in value.items():
            if not accept(key):
                refuse(place, repr(key)[:80], wanted or "a key that is not empty")
            item_check(item, f"{place}.{key}", refuse)

    return check


def _list(item_check: _Check) -> _Check:
    def check(value: Any, place: str, refuse: Refuse) -> None:
        _one(list, "a list")(value, place, refuse)
        for number, item in enumerate(value):
            item_check(item, f"{place}[{number}]", refuse)

    return check


def _or_null(inner: _Check) -> _Check:
    def check(value: Any, place: str, refuse: Refuse) -> None:
        if value is not None:
            inner(value, place, refuse)

    return check


def _answer(value: Any, place: str, refuse: Refuse) -> None:
    _check_keys(value, {"value": None, "error": None}, place, refuse)
    if len(value) != 1:
        refuse(place, f"{len(value)} keys", "either value or error")
    if "error" in value:
        _TEXT(value["error"], f"{place}.error", refuse)


def _hexadecimal(digits: int) -> _Check:
    # Empty where the system would not say: a function that vanished while it was read.
    form = re.compile(rf"(?:[0-9a-f]{{{digits}}})?")
    return _one(str, f"{digits} lower-case hexadecimal digits, no 0x", form.fullmatch)


_TEXT = _one(str, "text")
_BYTES = _or_null(_one(int, "a number of bytes or null", lambda value: value >= 0))
_PATH = _one(str, "an absolute path", lambda value: value.startswith("/"))
_CARD = _object(
    {
        "address": _one(str, "an address such as 0000:c1:00.0", _PCI_ADDRESS.fullmatch),
        "vendor": _hexadecimal(4),
        "device": _hexadecimal(4),
        "class_id": _hexadecimal(6),
        "driver": _or_null(_TEXT),
    },
    required=("address", "vendor", "device", "class_id"),
)
_PARTS: Mapping[str, _Check] = {
    "schema": _TEXT,
    "title": _TEXT,
    "kind": _one(str, "reading or composed", {"reading", "composed"}.__contains__),
    "sources": _map(_TEXT),
    "platform": _object(dict.fromkeys(("system", "arch", "python"), _TEXT)),
    "env": _map(_TEXT),
    "memory": _object({"total": _BYTES, "available": _BYTES}),
    "cpu": _object(
        {
            "model": _TEXT,
            "flags": _list(_TEXT),
            "count": _one(int, "a number of processors, at least 1", lambda value: value >= 1),
        }
    ),
    "pci": _list(_CARD),
    "paths": _list(_PATH),
    "files": _map(_TEXT, lambda key: key.startswith("/"), "an absolute path"),
    "queries": _map(_answer),
    "commands": _map(_TEXT),
    "distributions": _map(_TEXT),
    "distribution_files": _map(_TEXT, lambda key: ":" in key, "distribution:path"),
}
