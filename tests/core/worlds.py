"""Temporary packages, imported for real, and everything a test of the patch engine looks at."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from accel.patching import Entry, Journal, importing, slots
from accel.values import Patch


class World:
    """A folder on `sys.path`. `close` takes it away and checks that the engine holds nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journals: list[Journal] = []
        self.before = set(sys.modules)
        sys.path.insert(0, str(folder))

    def write(self, files: dict[str, str]) -> None:
        """Files by their path, parents made."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        importlib.invalidate_caches()

    def load(self, *names: str) -> Any:
        modules = [importlib.import_module(name) for name in names]
        return modules[0] if len(modules) == 1 else modules

    def journal(self, *patches: Patch, versions: dict[str, str] | None = None) -> Journal:
        journal = Journal()
        self.journals.append(journal)
        journal.apply(patches, version=(versions or {}).get)
        return journal

    def close(self) -> None:
        for journal in self.journals:
            journal.revert()
        sys.path.remove(str(self.folder))
        for name in set(sys.modules) - self.before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(self.folder)):
                del sys.modules[name]
        assert importing._waiting == {}
        assert importing._finder not in sys.meta_path
        assert slots._live == []


def opened(folder: Path) -> Iterator[World]:
    """For a fixture: `yield from opened(tmp_path)`."""
    world = World(folder)
    yield world
    world.close()


def replacing(
    target: str, replace: Callable[[Any], Any], owner: str = "us", **fields: Any
) -> Patch:
    return Patch(target=target, reason="a test", replace=replace, owner=owner, **fields)


def times(factor: int) -> Callable[[Any], Any]:
    """Replaces a function of numbers by one whose result is `factor` times as large, plus one.

    Not commutative, so that the order of layers shows.
    """

    def replace(original: Any) -> Any:
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs) * factor + 1

        return replacement

    return replace


def fingerprint(modules: Iterable[ModuleType]) -> dict[tuple[str, ...], Any]:
    """Every top-level binding of the modules and of the classes in them, as the objects."""
    found: dict[tuple[str, ...], Any] = {}
    for module in modules:
        for name, value in vars(module).items():
            if name != "__builtins__":
                found[module.__name__, name] = value
            if isinstance(value, type):
                for inner, item in vars(value).items():
                    found[module.__name__, name, inner] = item
    return found


def assert_identical(one: dict[tuple[str, ...], Any], other: dict[tuple[str, ...], Any]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if one[key] is not other[key]] == []


def only(journal: Journal) -> Entry:
    (entry,) = journal.entries
    return entry
