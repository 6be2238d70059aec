"""What is read off a plugin is what pluggy's own registration finds."""

from __future__ import annotations

import functools
import importlib.metadata
import types
from typing import Any

import pluggy
import pytest

from accel import hookspecs
from accel.errors import PluginContractError
from accel.hooks import by_pluggy, implementations, specified
from accel.hookspecs import hookimpl

BUILT_IN = importlib.metadata.entry_points(group="accel")


@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda entry: entry.name)
def test_our_own_plugins_are_regular_and_found_as_pluggy_finds_them(entry: Any) -> None:
    plugin = entry.load()

    def key(one: Any) -> Any:
        return one.hook

    read, told = implementations(plugin, entry.name), by_pluggy(plugin, entry.name)
    assert sorted(read, key=key) == sorted(told, key=key)


def test_the_markers_write_what_pluggys_write() -> None:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name, arguments in specified().items():
        assert manager.hook.__getattribute__(name).spec.argnames == arguments

    def own() -> None: ...
    def theirs() -> None: ...

    hookimpl(tryfirst=True, specname="accel_detect")(own)
    pluggy.HookimplMarker("accel")(tryfirst=True, specname="accel_detect")(theirs)
    assert own.accel_impl == theirs.accel_impl  # type: ignore[attr-defined]


class Plugin:
    """Methods of every kind, and a property that must not be run."""

    @property
    def trap(self) -> None:
        raise AssertionError

    @hookimpl
    def accel_detect(self, machine: Any) -> list[Any]:
        return [self]

    @staticmethod
    @hookimpl
    def accel_capabilities(device: Any) -> list[Any]:
        return [device]

    @classmethod
    @hookimpl(trylast=True)
    def accel_report(cls, report: Any) -> None: ...

    def accel_select(self, devices: Any) -> None:
        """Not marked, so no hook."""


def test_an_objects_methods_are_read_as_pluggy_reads_them() -> None:
    plugin = Plugin()
    read = {one.hook: one for one in implementations(plugin, "p")}
    told = {one.hook: one for one in by_pluggy(plugin, "p")}
    assert read == told
    assert set(read) == {"accel_detect", "accel_capabilities", "accel_report"}
    assert read["accel_detect"].function(None) == [plugin]
    assert read["accel_report"].place == 1


def marked(function: Any, name: str = "accel_detect", **options: Any) -> Any:
    return types.SimpleNamespace(**{name: hookimpl(**options)(function)})


def decorated() -> Any:
    def inner(machine: Any) -> list[Any]:
        return []

    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    return outer


@pytest.mark.parametrize(
    "plugin",
    [
        marked(decorated()),
        marked(lambda machine, more=3: []),
        marked(lambda machine, *, more=3: []),
        marked(lambda machine: [], "detection", specname="accel_detect"),
        marked(lambda x: [], "accel_future", optionalhook=True),
    ],
)
def test_the_irregular_is_left_to_pluggy(plugin: Any) -> None:
    assert implementations(plugin, "p") == by_pluggy(plugin, "p")


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (marked(lambda machine: [], "accel_detct"), "unknown hook 'accel_detct'"),
        (marked(lambda maschine: []), "maschine"),
        (marked(lambda machine: (yield), wrapper=True), "wrapper"),
    ],
)
def test_what_breaks_the_contract_is_pluggys_to_explain(plugin: Any, said: str) -> None:
    with pytest.raises((PluginContractError, pluggy.PluginValidationError), match=said):
        implementations(plugin, "p")
