"""What can be a target, and that each kind comes back exactly as it was."""

from __future__ import annotations

import asyncio
import collections
import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from worlds import World, assert_identical, fingerprint, only, opened, replacing, times

LIB = """
    import functools

    LIMIT = 5
    NOTHING = None

    def f(x: "int", scale=1) -> "int":
        "Doubles."
        return x * 2 * scale

    f.tag = "kept"

    @functools.lru_cache
    def cached(x):
        return x * 3

    async def coroutine(x):
        return x + 1

    def generator(x):
        yield x

    class Base:
        def method(self, x):
            return x + 1

        @staticmethod
        def static(x):
            return x + 2

        @classmethod
        def klass(cls, x):
            return cls.__name__, x

        @property
        def value(self):
            return 7

        LIMIT = 3

        class Inner:
            def deep(self, x):
                return x

    class Sub(Base):
        pass

    class Slotted:
        __slots__ = ("level",)
        def __init__(self):
            self.level = 1

    class Config:
        def __init__(self):
            self.level = 1
        def ask(self):
            return "class"

    config = Config()
    slotted = Slotted()
    TABLE = {"a": f, "b": len}
    LIST = [1, 2, 3]
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from opened(tmp_path)


@pytest.fixture
def lib(world: World) -> Any:
    world.write({"lib.py": LIB})
    return world.load("lib")


def _constant(value: Any) -> Any:
    return lambda original: value


CASES: list[tuple[str, Any, Any, Any]] = [
    ("lib:f", times(10), lambda lib: lib.f(1), 21),
    ("lib:LIMIT", lambda n: n + 1, lambda lib: lib.LIMIT, 6),
    ("lib:NOTHING", _constant("some"), lambda lib: lib.NOTHING, "some"),
    ("lib:Base.method", times(10), lambda lib: lib.Base().method(1), 21),
    ("lib:Base.static", times(10), lambda lib: (lib.Base.static(1), lib.Sub().static(1)), (31, 31)),
    (
        "lib:Base.klass",
        lambda original: lambda cls, x: (*original(cls, x), "new"),
        lambda lib: (lib.Base.klass(1), lib.Sub().klass(2)),
        (("Base", 1, "new"), ("Sub", 2, "new")),
    ),
    (
        "lib:Base.static",
        lambda original: staticmethod(times(10)(original)),
        lambda lib: lib.Sub().static(1),
        31,
    ),
    (
        "lib:Base.value",
        lambda original: property(lambda self: original.fget(self) + 1),
        lambda lib: lib.Sub().value,
        8,
    ),
    ("lib:Base.LIMIT", _constant(9), lambda lib: lib.Sub.LIMIT, 9),
    ("lib:Base.Inner.deep", times(10), lambda lib: lib.Sub.Inner().deep(1), 11),
    ("lib:Sub.method", times(10), lambda lib: (lib.Sub().method(1), lib.Base().method(1)), (21, 2)),
    ("lib:Sub.static", times(10), lambda lib: (lib.Sub.static(1), lib.Base.static(1)), (31, 3)),
    ("lib:Sub.LIMIT", _constant(9), lambda lib: (lib.Sub.LIMIT, lib.Base.LIMIT), (9, 3)),
    ("lib:config.level", _constant(4), lambda lib: lib.config.level, 4),
    (
        "lib:config.ask",
        lambda original: lambda: original() + "!",
        lambda lib: (lib.config.ask(), lib.Config().ask()),
        ("class!", "class"),
    ),
    ("lib:slotted.level", _constant(4), lambda lib: lib.slotted.level, 4),
    ("lib:TABLE[a]", times(10), lambda lib: (lib.TABLE["a"](1), lib.f(1)), (21, 2)),
    ("lib:TABLE['b']", _constant(max), lambda lib: lib.TABLE["b"], max),
    ("lib:LIST[1]", _constant(20), lambda lib: lib.LIST, [1, 20, 3]),
    ("lib:cached", times(10), lambda lib: lib.cached(1), 31),
]


@pytest.mark.parametrize(("target", "replace", "ask", "wanted"), CASES)
def test_a_target_of_every_kind(
    world: World, lib: Any, target: str, replace: Any, ask: Any, wanted: Any
) -> None:
    before, table, items = fingerprint([lib]), dict(lib.TABLE), list(lib.LIST)
    instances = dict(vars(lib.config)), lib.slotted.level
    unpatched = ask(lib)
    journal = world.journal(replacing(target, replace))
    assert only(journal).state == "applied", only(journal).detail
    assert ask(lib) == wanted
    assert journal.revert() == ()
    assert_identical(fingerprint([lib]), before)
    assert all(lib.TABLE[key] is table[key] for key in table)
    assert (list(lib.TABLE), lib.LIST) == (list(table), items)
    assert (vars(lib.config), lib.slotted.level) == instances
    assert str(ask(lib)).partition(" at ")[0] == str(unpatched).partition(" at ")[0]


def test_an_inherited_attribute_is_inherited_again(world: World, lib: Any) -> None:
    journal = world.journal(replacing("lib:Sub.method", times(10)))
    assert "method" in vars(lib.Sub)
    journal.revert()
    assert "method" not in vars(lib.Sub)
    assert lib.Sub.method is lib.Base.method


def test_an_inherited_attribute_follows_a_later_patch_of_the_base(world: World, lib: Any) -> None:
    world.journal(replacing("lib:Sub.value", lambda p: property(lambda self: p.fget(self) * 10)))
    below = world.journal(
        replacing("lib:Base.value", lambda p: property(lambda self: p.fget(self) + 1))
    )
    assert (lib.Sub().value, lib.Base().value) == (80, 8)
    below.revert()
    assert (lib.Sub().value, lib.Base().value) == (70, 7)


def test_a_defaultdict_is_not_made_to_invent(world: World, lib: Any) -> None:
    lib.MADE = collections.defaultdict(list)
    assert only(world.journal(replacing("lib:MADE[x]", _constant(1)))).state == "skipped"
    assert lib.MADE == {}


def test_a_patched_function_looks_like_the_original(world: World, lib: Any) -> None:
    original = lib.f
    signature = inspect.signature(original)
    journal = world.journal(replacing("lib:f", times(10)))
    assert lib.f is not original
    for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__", "tag"):
        assert getattr(lib.f, name) == getattr(original, name)
    assert inspect.signature(lib.f) == signature
    assert pickle.loads(pickle.dumps(lib.f)) is lib.f
    assert pickle.loads(pickle.dumps(lib.Base.method)) is lib.Base.method
    pickled = pickle.dumps(lib.f)
    journal.revert()
    assert pickle.loads(pickled) is original
    assert not hasattr(original, "__wrapped__")


def test_a_patched_builtin_pickles_by_the_name_it_has_in_its_module(world: World, lib: Any) -> None:
    lib.made = dict.fromkeys  # pickle would look for dict.fromkeys in the module
    world.journal(replacing("lib:made", _wrapped))
    assert lib.made.__wrapped__ == dict.fromkeys
    assert pickle.loads(pickle.dumps(lib.made)) is lib.made


def _wrapped(original: Any) -> Any:
    return lambda *args: original(*args)


def test_a_patched_method_pickles_by_reference(world: World, lib: Any) -> None:
    world.journal(replacing("lib:Base.method", times(10)))
    assert pickle.loads(pickle.dumps(lib.Base.method)) is lib.Base.method


def test_a_cached_function_keeps_its_cache_controls(world: World, lib: Any) -> None:
    world.journal(replacing("lib:cached", times(10)))
    lib.cached(1)
    assert lib.cached.cache_info().currsize == 1
    lib.cached.cache_clear()
    assert lib.cached.cache_info().currsize == 0
    assert lib.cached.cache_parameters()["maxsize"] == 128


def test_coroutines_and_generators_pass_through(world: World, lib: Any) -> None:
    async def twice(x: int) -> int:
        return x * 2

    world.journal(
        replacing("lib:coroutine", lambda original: twice),
        replacing("lib:generator", lambda original: lambda x: (y * 10 for y in original(x))),
    )
    assert asyncio.run(lib.coroutine(4)) == 8
    assert list(lib.generator(4)) == [40]
    if hasattr(inspect, "markcoroutinefunction"):
        assert inspect.iscoroutinefunction(lib.coroutine)


def test_a_class_is_replaced_by_the_very_class(world: World, lib: Any) -> None:
    original = lib.Base
    journal = world.journal(replacing("lib:Base", lambda c: type("Better", (c,), {})))
    assert lib.Base.__mro__[1] is original
    journal.revert()
    assert lib.Base is original


def test_an_attribute_of_a_lazy_package(world: World) -> None:
    """PEP 562: the name is in no `__dict__` until somebody asks for it."""
    world.write(
        {
            "lazy/__init__.py": """
                def __getattr__(name):
                    if name == "f":
                        from lazy.core import f
                        return f
                    raise AttributeError(name)
            """,
            "lazy/core.py": "def f(x):\n    return x\n",
        }
    )
    lazy, core = world.load("lazy", "lazy.core")
    journal = world.journal(replacing("lazy:f", times(10)))
    assert (lazy.f(1), core.f(1)) == (11, 11)
    original = core.f.__wrapped__
    journal.revert()
    assert "f" not in vars(lazy)
    assert lazy.f is core.f is original


def test_a_replacement_that_is_the_door_itself_does_not_call_itself(world: World, lib: Any) -> None:
    world.journal(replacing("lib:f", times(10)))
    entry = only(world.journal(replacing("lib:f", lambda original: lib.f)))
    assert (entry.state, entry.detail) == ("skipped", "not needed")
    assert lib.f(1) == 21
