"""What is installed, read off the folders on `sys.path`: names, versions, entry points.

`importlib.metadata` opens and parses the metadata of every distribution for one entry point, and
its own import (email, zipfile, csv) costs more than detection. Here folders are listed, and a file
is read where its content is asked for. Nothing is kept beyond an `Installed`, so whatever was
installed, changed or removed is seen by the next one. Where anything but plain folders may hold
distributions (a zip file or an egg on the path, a finder of its own), `importlib.metadata` answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from accel.value import Value

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

_SUFFIXES = (".dist-info", ".egg-info")
_SEPARATORS = str.maketrans("_.", "--")


class EntryPoint(Value, kw_only=False):
    """An entry point: `name = value`, and the distribution that says so."""

    name: str
    value: str
    distribution: str
    version: str

    def load(self) -> Any:
        """Import what `value` names, `module` or `module:attribute`."""
        path = self.value.partition("[")[0]
        module, _, attributes = (part.strip() for part in path.partition(":"))
        __import__(module)
        found: Any = sys.modules[module]
        for attribute in filter(None, attributes.split(".")):
            found = getattr(found, attribute)
        return found


def canonical(distribution: str) -> str:
    """A distribution's name as PEP 503 spells it."""
    name = distribution.translate(_SEPARATORS).lower()
    while "--" in name:
        name = name.replace("--", "-")
    return name


class Installed:
    """The distributions on `sys.path` at the time when it is made."""

    def __init__(self, path: Sequence[str] | None = None) -> None:
        self._path = list(sys.path if path is None else path)
        self._folders: dict[str, str] | None = None
        if path is not None or not _other_finders():
            self._folders = _folders(self._path)

    @property
    def plain(self) -> bool:
        """Whether folders are all there is, so that importlib.metadata is not needed."""
        return self._folders is not None

    def version(self, distribution: str) -> str | None:
        """The version of a distribution by any spelling of its name, or None."""
        if self._folders is None:
            return _by_metadata(distribution)
        folder = self._folders.get(canonical(distribution))
        return None if folder is None else _said_by(folder)[1]

    def file(self, distribution: str, path: str) -> str | None:
        """Where a file that the distribution brought is, `path` as in its RECORD."""
        if self._folders is None:
            from importlib import metadata

            try:
                return str(metadata.distribution(distribution).locate_file(path))
            except metadata.PackageNotFoundError:
                return None
        folder = self._folders.get(canonical(distribution))
        return None if folder is None else os.path.join(os.path.dirname(folder), path)

    def entry_points(self, group: str) -> list[EntryPoint]:
        """Every entry point of a group; of distributions of one name, the first on the path."""
        if self._folders is None:
            return _entry_points_by_metadata(group)
        found = []
        for name, folder in self._folders.items():
            pairs = list(_section(_read(f"{folder}/entry_points.txt"), group))
            if pairs:
                said, version = _said_by(folder)
                origin = canonical(said or name)
                found += [EntryPoint(n, value, origin, version or "") for n, value in pairs]
        return found


def _other_finders() -> bool:
    """Whether an import finder other than Python's own may know distributions."""
    return any(
        getattr(finder, "find_distributions", None) is not None
        for finder in sys.meta_path
        if getattr(finder, "__module__", "") != "_frozen_importlib_external"
    )


def _folders(path: Sequence[str]) -> dict[str, str] | None:
    """The metadata folder of each distribution; None where something is not a plain folder."""
    found: dict[str, str] = {}
    for entry in dict.fromkeys(path):
        place = entry or "."
        try:
            names = sorted(os.listdir(place))
        except NotADirectoryError:
            return None
        except OSError:
            continue
        if place.endswith(".egg"):
            return None
        for name in names:
            if name.endswith(_SUFFIXES):
                stem = name.rpartition(".")[0].partition("-")[0]
                found.setdefault(canonical(stem), os.path.join(place, name))
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _said_by(folder: str) -> tuple[str, str | None]:
    """The name and version in the metadata's headers; after the first blank line stands prose."""
    for path in (f"{folder}/METADATA", f"{folder}/PKG-INFO", folder):  # an egg-info may be a file
        said: dict[str, str] = {}
        try:
            with open(path, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    key, _, rest = line.partition(":")
                    if key.lower() in ("name", "version"):
                        said.setdefault(key.lower(), rest.strip())
                    if len(said) == 2 or not line.strip():
                        break
        except OSError:
            continue
        if said:
            return said.get("name", ""), said.get("version")
    return "", None


def _section(text: str, group: str) -> Iterator[tuple[str, str]]:
    """The `name = value` lines under `[group]`."""
    if f"[{group}]" not in text:
        return
    inside = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            inside = line == f"[{group}]"
        elif inside and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()


# What importlib.metadata knows beyond folders --------------------------------------------------


def _by_metadata(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.distribution(distribution).version
    except metadata.PackageNotFoundError:
        return None


def _entry_points_by_metadata(group: str) -> list[EntryPoint]:
    from importlib import metadata

    return [
        EntryPoint(
            entry.name,
            entry.value,
            canonical(entry.dist.name) if entry.dist else "unknown",
            entry.dist.version if entry.dist else "",
        )
        for entry in metadata.entry_points(group=group)
    ]
