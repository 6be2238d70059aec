"""Names that other modules copied: they follow the patch, and come back with it."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from worlds import World, assert_identical, fingerprint, only, opened, replacing, times

FILES = {
    "lib/__init__.py": "from lib.core import f, Model\nfrom lib import core\n",
    "lib/core.py": """
        LIMIT = 1000000

        def f(x):
            return x * 2

        class Model:
            pass
    """,
    "user.py": """
        import lib
        from lib import core
        from lib.core import LIMIT, Model
        from lib.core import f, f as alias

        def call(x):
            return f(x)
    """,
    "late.py": "from lib.core import f, Model\nfrom lib.core import f as other\n",
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = opened(tmp_path)
    for made in world:
        made.write(FILES)
        yield made


def test_copies_follow_and_come_back(world: World) -> None:
    modules = world.load("lib", "lib.core", "user")
    lib, core, user = modules
    before = fingerprint(modules)
    journal = world.journal(
        replacing("lib.core:f", times(10)),
        replacing("lib.core:Model", lambda c: type("Better", (c,), {})),
    )
    assert lib.f is core.f is user.f is user.alias
    assert user.call(1) == 21
    assert lib.Model is core.Model is user.Model
    assert user.Model.__name__ == "Better"
    assert journal.entries[0].also == ("lib:f", "user:alias", "user:f")
    assert journal.entries[1].also == ("lib:Model", "user:Model")
    assert journal.revert() == ()
    assert_identical(fingerprint(modules), before)


def test_a_module_that_copied_the_replacement_is_restored_too(world: World) -> None:
    core = world.load("lib.core")
    f, model = core.f, core.Model
    journal = world.journal(
        replacing("lib.core:f", times(10)),
        replacing("lib.core:Model", lambda c: type("Better", (c,), {})),
    )
    late = world.load("late")
    assert late.f(1) == 21
    journal.revert()
    assert late.f is late.other is f
    assert late.Model is model


def test_constants_are_replaced_in_one_place(world: World) -> None:
    lib, user = world.load("lib.core", "user")
    journal = world.journal(replacing("lib.core:LIMIT", lambda n: 7))
    assert (lib.LIMIT, user.LIMIT) == (7, 1000000)
    assert only(journal).also == ()


def test_a_shared_constant_is_nobodys(world: World) -> None:
    """A dtype, say: an object that a library's setting is bound to, and others are as well."""
    lib, user = world.load("lib.core", "user")
    shared, better = object(), object()
    lib.DTYPE = user.float16 = shared
    user.float32 = better
    journal = world.journal(replacing("lib.core:DTYPE", lambda dtype: better))
    assert user.float16 is shared
    journal.revert()
    assert user.float32 is better
    assert lib.DTYPE is shared


def test_a_borrowed_name_is_replaced_in_that_one_place(world: World) -> None:
    world.write({"runner.py": "from subprocess import Popen, run\n"})
    runner = world.load("runner")
    real, run = subprocess.Popen, subprocess.run
    journal = world.journal(
        replacing("runner:Popen", lambda popen: type("Ours", (popen,), {})),
        replacing("runner:run", lambda original: lambda *args: "ours"),
    )
    assert (runner.Popen.__name__, runner.run()) == ("Ours", "ours")
    assert subprocess.Popen is real
    assert subprocess.run is run
    journal.revert()
    assert runner.Popen is real
    assert runner.run is run


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("undone", [(0, 1), (1, 0)])
def test_a_borrowed_name_over_the_librarys_own_patch(
    world: World, order: tuple[int, int], undone: tuple[int, int]
) -> None:
    core, user = world.load("lib.core", "user")
    original = core.f
    patches = [replacing("lib.core:f", times(10)), replacing("user:f", times(3))]
    journals: dict[int, Any] = {}
    for number in order:
        journals[number] = world.journal(patches[number])
    assert (core.f(1), user.alias(1), user.call(1)) == (21, 21, 21 * 3 + 1)
    journals[undone[0]].revert()
    assert (core.f(1), user.call(1)) == ((2, 7) if undone[0] == 0 else (21, 21))
    journals[undone[1]].revert()
    assert core.f is user.f is user.alias is original


def test_another_name_of_the_same_package_is_the_same_target(world: World) -> None:
    lib, core, user = world.load("lib", "lib.core", "user")
    original = core.f
    first = world.journal(replacing("lib.core:f", times(10)))
    second = world.journal(replacing("lib:f", times(3)))
    assert lib.f(1) == core.f(1) == user.call(1) == 21 * 3 + 1
    first.revert()
    assert lib.f(1) == core.f(1) == user.call(1) == 7
    second.revert()
    assert lib.f is core.f is user.f is original


def test_two_names_of_one_target_in_one_batch(world: World) -> None:
    lib, core = world.load("lib", "lib.core")
    original = core.f
    journal = world.journal(replacing("lib.core:f", times(10)), replacing("lib:f", times(3)))
    assert lib.f(1) == core.f(1) == 21 * 3 + 1
    journal.revert()
    assert lib.f is core.f is original


def test_a_replacement_that_calls_the_original_by_its_own_name_for_it(world: World) -> None:
    world.write(
        {
            "plugin.py": """
                from lib.core import f

                def better(x):
                    return f(x) + 1000

                def replace(original):
                    return better
            """
        }
    )
    core, user, plugin = world.load("lib.core", "user", "plugin")
    journal = world.journal(replacing("lib.core:f", plugin.replace))
    assert user.call(1) == 1002
    journal.revert()
    assert plugin.f is core.f


def test_a_ready_made_replacement_keeps_its_own_names(world: World) -> None:
    world.write({"stock.py": "class Other:\n    pass\n"})
    core, user, stock = world.load("lib.core", "user", "stock")
    model, other = core.Model, stock.Other
    journal = world.journal(replacing("lib.core:Model", lambda original: stock.Other))
    world.write({"late2.py": "from stock import Other\nfrom lib.core import Model\n"})
    late = world.load("late2")
    journal.revert()
    assert stock.Other is late.Other is other
    assert core.Model is user.Model is late.Model is model


def test_a_name_its_module_deleted_stays_deleted(world: World) -> None:
    core, user = world.load("lib.core", "user")
    journal = world.journal(replacing("lib.core:f", times(10)))
    del user.alias
    assert journal.revert() == ()
    assert not hasattr(user, "alias")
    assert user.f is core.f


def test_odd_things_in_sys_modules_are_left_asleep(world: World, monkeypatch: Any) -> None:
    core = world.load("lib.core")

    class Touchy(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"touched: {name}")

    class NoDict:
        __slots__ = ()

    touchy = Touchy("touchy")
    touchy.f = core.f
    for name, odd in {"touchy": touchy, "nodict": NoDict(), "none": None, "cls": NoDict}.items():
        monkeypatch.setitem(sys.modules, name, odd)  # type: ignore[arg-type]
    world.journal(replacing("lib.core:f", times(10)))
    assert touchy.f is core.f


def test_a_module_copied_before_it_was_in_sys_modules(world: World) -> None:
    """Once it is there, the next batch of patches finds it; at the latest, so does revert."""
    core, user = world.load("lib.core", "user")
    original = core.f
    del sys.modules["user"]
    first = world.journal(replacing("lib.core:f", times(10)))
    assert user.f is original
    sys.modules["user"] = user
    second = world.journal(replacing("lib.core:Model", lambda c: type("Better", (c,), {})))
    assert user.f is core.f
    second.revert()
    first.revert()
    assert user.f is core.f is original


def test_a_module_that_left_sys_modules_is_restored(world: World) -> None:
    core, user = world.load("lib.core", "user")
    journal = world.journal(replacing("lib.core:f", times(10)))
    del sys.modules["user"]
    assert user.call(1) == 21
    journal.revert()
    assert user.f is core.f


def test_the_main_module_follows_too(world: World, monkeypatch: Any) -> None:
    core = world.load("lib.core")
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "copied", core.f, raising=False)
    journal = world.journal(replacing("lib.core:f", times(10)))
    assert main.copied is core.f  # type: ignore[attr-defined]
    assert "__main__:copied" in only(journal).also
    journal.revert()
    assert main.copied is core.f  # type: ignore[attr-defined]
