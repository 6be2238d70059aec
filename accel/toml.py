"""TOML for facts files: what they are written in is read here, and all else by tomllib.

tomllib and its import take longer than the rest of detection, and facts files use little of TOML:
tables, arrays of tables, keys, plain strings, plain numbers, booleans, arrays and inline tables. A
text with anything more (escapes, dates, signs), or with a mistake, is tomllib's, whose answer or
error then counts. A test holds both readers against each other.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

_BARE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


class _Beyond(Exception):
    """The text is more, or less, than this reader knows."""


def loads(text: str) -> dict[str, Any]:
    """The document. Raises ValueError (tomllib's TOMLDecodeError) where it is not TOML."""
    plain = plainly(text)
    if plain is not None:
        return plain
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # the same module under its older name
        import tomli as tomllib
    document: dict[str, Any] = tomllib.loads(text)
    return document


def plainly(text: str) -> dict[str, Any] | None:
    """The document, or None where that is tomllib's to say."""
    if not text.replace("\n", "").replace("\t", "").isprintable():
        return None
    try:
        return _Reader(text + "\n").document()
    except (_Beyond, ValueError, IndexError):  # what is sought and not found is a mistake
        return None


class _Reader:
    """A cursor `at` in the text. `_value` and its kin leave it behind what they have read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.root: dict[str, Any] = {}
        self.by_header = {id(self.root)}
        """Tables and arrays of tables that headers made, and which headers may go on with."""
        self.by_dots: set[int] = set()
        """Tables that dotted keys made, and which only dotted keys may go on with."""
        self.seen: set[tuple[str, ...]] = set()

    def document(self) -> dict[str, Any]:
        table = self.root
        while self._next(newlines=True):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            if self._next() != "\n":
                raise _Beyond
        return self.root

    def _next(self, newlines: bool = False) -> str:
        """The first character behind blanks and comments; empty at the end of the text."""
        text, at = self.text, self.at
        blanks = " \t\n" if newlines else " \t"
        while at < len(text):
            character = text[at]
            if character == "#":
                at = text.index("\n", at)
            elif character in blanks:
                at += 1
            else:
                break
        self.at = at
        return text[at : at + 1]

    def _header(self) -> dict[str, Any]:
        many = self.text.startswith("[[", self.at)
        self.at += 1 + many
        path = [self._key()]
        while self._next() == ".":
            self.at += 1
            path.append(self._key())
        if not self.text.startswith("]]" if many else "]", self.at):
            raise _Beyond
        self.at += 1 + many
        place = self.root
        for step in path[:-1]:
            found = self._opened(place, step, {})
            place = found[-1] if isinstance(found, list) else found
        if many:
            table: dict[str, Any] = {}
            self.by_header.add(id(table))
            items = self._opened(place, path[-1], [])
            items.append(table)
            return table
        if tuple(path) in self.seen or isinstance(place.get(path[-1]), list):
            raise _Beyond
        self.seen.add(tuple(path))
        opened: dict[str, Any] = self._opened(place, path[-1], {})
        return opened

    def _opened(self, place: dict[str, Any], step: str, new: Any) -> Any:
        found = place.setdefault(step, new)
        if found is new:
            self.by_header.add(id(new))
        elif id(found) not in self.by_header or (new == [] and not isinstance(found, list)):
            raise _Beyond
        return found

    def _pair(self, table: dict[str, Any]) -> None:
        key = self._key()
        while self._next() == ".":
            self.at += 1
            new: dict[str, Any] = {}
            table = table.setdefault(key, new)
            if table is new:
                self.by_dots.add(id(new))
            elif id(table) not in self.by_dots:
                raise _Beyond
            key = self._key()
        if self._next() != "=" or key in table:
            raise _Beyond
        self.at += 1
        self._next()
        table[key] = self._value()

    def _key(self) -> str:
        if self._next() == '"':
            return self._string()
        start = at = self.at
        while self.text[at] in _BARE:
            at += 1
        if at == start:
            raise _Beyond
        self.at = at
        return self.text[start:at]

    def _value(self) -> Any:
        character = self.text[self.at]
        if character == '"':
            return self._string()
        if character == "[":
            return self._array()
        if character == "{":
            return self._inline()
        start = at = self.at
        while self.text[at] in _BARE:
            at += 1
        word = self.text[start:at]
        self.at = at
        if word in ("true", "false"):
            return word == "true"
        if not word.isdecimal() or (word[0] == "0" and word != "0"):
            raise _Beyond
        if self.text[at] != ".":
            return int(word)
        start = at = at + 1
        while self.text[at] in _BARE:
            at += 1
        fraction = self.text[start:at]
        if not fraction.isdecimal():
            raise _Beyond
        self.at = at
        return float(f"{word}.{fraction}")

    def _string(self) -> str:
        if self.text.startswith('"""', self.at):
            raise _Beyond
        end = self.text.index('"', self.at + 1)
        found = self.text[self.at + 1 : end]
        if "\\" in found or "\n" in found:
            raise _Beyond
        self.at = end + 1
        return found

    def _array(self) -> list[Any]:
        items: list[Any] = []
        self.at += 1
        while self._next(newlines=True) != "]":
            items.append(self._value())
            if self._next(newlines=True) == ",":
                self.at += 1
            elif self.text[self.at] != "]":
                raise _Beyond
        self.at += 1
        return items

    def _inline(self) -> dict[str, Any]:
        table: dict[str, Any] = {}
        self.at += 1
        if self._next() != "}":
            self._pair(table)
            while self._next() == ",":
                self.at += 1
                self._pair(table)
        if self.text[self.at] != "}":
            raise _Beyond
        self.at += 1
        return table
