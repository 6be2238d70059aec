"""Several owners on one target, undone in any order; and other libraries' patches in between."""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel.patching import Journal
from accel.values import Level, Patch
from worlds import World, assert_identical, fingerprint, only, opened, replacing, times

FILES = {
    "lib/__init__.py": "from lib.core import f, Model\n",
    "lib/core.py": """
        LIMIT = 5

        def f(x):
            return x * 2

        class Model:
            def method(self, x):
                return x + 1

            @staticmethod
            def static(x):
                return x + 2

            @property
            def value(self):
                return 3

        class Sub(Model):
            pass
    """,
    "user.py": "from lib.core import f\ndef call(x):\n    return f(x)\n",
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    for made in opened(tmp_path):
        made.write(FILES)
        yield made


def test_three_owners_undone_from_the_middle(world: World) -> None:
    core = world.load("lib.core")
    original = core.f
    first, middle, last = (world.journal(replacing("lib.core:f", times(n))) for n in (2, 3, 5))
    assert core.f(1) == ((2 * 2 + 1) * 3 + 1) * 5 + 1
    middle.revert()
    assert core.f(1) == (2 * 2 + 1) * 5 + 1
    first.revert()
    assert core.f(1) == 2 * 5 + 1
    last.revert()
    assert core.f is original


def test_a_foreign_wrapper_gives_way_and_is_named(world: World) -> None:
    core, user = world.load("lib.core", "user")
    original = core.f
    journal = world.journal(replacing("lib.core:f", times(10), owner="ours"))
    ours = core.f

    def theirs(x: int) -> int:
        return int(ours(x)) + 1000

    core.f = theirs
    assert core.f(1) == 1021
    (note,) = journal.revert()
    assert core.f is user.f is original
    assert (note.level, note.subject, note.origin) == (Level.WARNING, "lib.core:f", "ours")
    assert "theirs" in note.message
    assert theirs(1) == 1002
    assert journal.revert() == ()


def test_a_foreign_change_to_a_copied_name_gives_way_too(world: World) -> None:
    core, user = world.load("lib.core", "user")
    journal = world.journal(replacing("lib.core:f", times(10)))
    user.f = lambda x: "theirs"
    (note,) = journal.revert()
    assert user.f is core.f
    assert note.subject == "user:f"


def test_a_foreign_library_puts_our_replacement_back(world: World) -> None:
    core = world.load("lib.core")
    original = core.f
    journal = world.journal(replacing("lib.core:f", times(10)))
    saved = core.f
    core.f = lambda x: "theirs"
    journal.revert()
    core.f = saved
    assert core.f(1) == 2
    again = world.journal(replacing("lib.core:f", times(3)))
    assert core.f(1) == 7
    again.revert()
    assert core.f is saved
    core.f = original


def test_a_stale_static_method_does_what_the_original_does(world: World) -> None:
    core = world.load("lib.core")
    journal = world.journal(replacing("lib.core:Model.static", times(10)))
    saved = core.Model.static
    assert saved(1) == 31
    journal.revert()
    assert saved(1) == 3


def test_a_replacement_given_as_a_static_method_goes_stale_as_well(world: World) -> None:
    core = world.load("lib.core")
    wrapped = times(10)
    journal = world.journal(
        replacing("lib.core:Model.static", lambda original: staticmethod(wrapped(original)))
    )
    saved = core.Model.static
    assert saved(1) == 31
    journal.revert()
    assert saved(1) == 3


def test_a_patch_over_a_copy_outside_of_the_module(world: World) -> None:
    """A class made while the patch was on has it as its own; patched itself, it comes back too."""
    core = world.load("lib.core")
    original = core.f
    first = world.journal(replacing("lib.core:f", times(10)))
    core.Model.extra = core.f
    second = world.journal(replacing("lib.core:Model.extra", times(2)))
    first.revert()
    second.revert()
    assert core.Model.extra is original


def test_two_replacements_of_a_class_in_one_batch(world: World) -> None:
    lib, core = world.load("lib", "lib.core")
    model = core.Model
    journal = world.journal(
        *(replacing("lib.core:Model", lambda c, n=n: type(n, (c,), {})) for n in ("One", "Two"))
    )
    assert lib.Model is core.Model
    assert [c.__name__ for c in lib.Model.__mro__[:3]] == ["Two", "One", "Model"]
    journal.revert()
    assert lib.Model is core.Model is model


def test_a_further_name_that_cannot_be_written_leaves_the_others(world: World) -> None:
    lib, core = world.load("lib", "lib.core")
    model = core.Model
    del lib.Model
    first = world.journal(replacing("lib.core:Model", lambda c: type("One", (c,), {})))
    one = core.Model
    lib.__class__ = type("Strict", (types.ModuleType,), {"Model": property(lambda _: one)})
    second = world.journal(replacing("lib:Model", lambda c: type("Two", (c,), {})))
    assert only(second).state == "failed"
    assert core.Model is one
    assert first.revert() == ()
    assert core.Model is model


def test_a_name_that_can_no_longer_be_written_leaves_the_others(world: World) -> None:
    """Where another owner's layer stays over it, so that it is written and not given back."""
    core = world.load("lib.core")

    class Locked:
        locked = False
        level = property(
            lambda self: self._level,
            lambda self, value: self.write(value),
        )

        def __init__(self) -> None:
            self._level = 1

        def write(self, value: Any) -> None:
            if self.locked:
                raise RuntimeError("locked")
            self._level = value

    core.settings = settings = Locked()
    original = core.f
    first = world.journal(
        replacing("lib.core:f", times(10)),
        replacing("lib.core:settings.level", lambda below: below + 1),
    )
    second = world.journal(replacing("lib.core:settings.level", lambda below: below * 10))
    assert settings.level == 20
    settings.locked = True
    (note,) = first.revert()
    assert "could not be undone: RuntimeError: locked" in note.message
    assert core.f is original
    settings.locked = False
    second.revert()
    assert settings.level == 1


def test_the_foreign_wrapper_stays_while_another_owner_does(world: World) -> None:
    core = world.load("lib.core")
    original = core.f
    first = world.journal(replacing("lib.core:f", times(10)))
    second = world.journal(replacing("lib.core:f", times(3)))
    ours = core.f
    core.f = theirs = lambda x: ours(x) + 1000
    assert first.revert() == ()
    assert core.f is theirs
    assert core.f(1) == 1007
    assert len(second.revert()) == 1
    assert core.f is original


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_foreign_wrapper_between_two_owners(world: World, order: tuple[int, int]) -> None:
    core = world.load("lib.core")
    original = core.f
    first = world.journal(replacing("lib.core:f", times(10)))
    ours = core.f
    core.f = lambda x: ours(x) + 1000
    second = world.journal(replacing("lib.core:f", times(2)))
    assert core.f(1) == 1021 * 2 + 1
    journals = [first, second]
    notes = list(journals[order[0]].revert())
    assert core.f(1) == (5 if order[0] == 0 else 1021)
    notes += journals[order[1]].revert()
    assert core.f is original
    assert [note.subject for note in notes] == ["lib.core:f"]


def test_a_layer_that_cannot_be_made_anew_falls_out_and_is_named(world: World) -> None:
    core = world.load("lib.core")
    original = core.f
    calls: list[int] = []

    def once(below: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise ValueError("only once")
        return lambda x: below(x) + 100

    below = world.journal(replacing("lib.core:f", times(10)))
    fragile = world.journal(replacing("lib.core:f", once))
    top = world.journal(replacing("lib.core:f", times(2)))
    (note,) = below.revert()
    assert note.level is Level.ERROR
    assert "only once" in note.message
    assert only(fragile).state == "failed"
    assert core.f(1) == 5
    top.revert()
    assert core.f is original


TARGETS = [
    "lib.core:f",
    "lib:f",
    "user:f",
    "lib.core:Model.method",
    "lib.core:Model.static",
    "lib.core:Sub.method",
    "lib.core:LIMIT",
    "lib.core:Model.value",
    "os:environ",
]


def _patch(target: str, factor: int) -> Patch:
    if target == "os:environ":
        return Patch(target=target, reason="", environ={"ACCEL_TEST_STACK": str(factor)})
    if target == "lib.core:LIMIT":
        return replacing(target, lambda n: n * factor + 1)
    if target == "lib.core:Model.value":
        return replacing(target, lambda below: property(lambda self: below.fget(self) * factor + 1))
    return replacing(target, times(factor))


def _over(value: int, factors: list[int]) -> int:
    for factor in factors:
        value = value * factor + 1
    return value


def _wanted(live: list[tuple[str, int]]) -> dict[str, Any]:
    def of(*targets: str) -> list[int]:
        return [factor for target, factor in live if target in targets]

    f = _over(2, of("lib.core:f", "lib:f"))
    method = _over(2, of("lib.core:Model.method"))
    return {
        "f": f,
        "user": _over(f, of("user:f")),
        "method": method,
        "sub": _over(method, of("lib.core:Sub.method")),
        "static": _over(3, of("lib.core:Model.static")),
        "LIMIT": _over(5, of("lib.core:LIMIT")),
        "value": _over(3, of("lib.core:Model.value")),
        "environ": str((of("os:environ") or [0])[-1]),
    }


def _asked(core: Any, lib: Any, user: Any) -> dict[str, Any]:
    assert core.f(1) == lib.f(1)
    return {
        "f": core.f(1),
        "user": user.call(1),
        "method": core.Model().method(1),
        "sub": core.Sub().method(1),
        "static": core.Sub.static(1),
        "LIMIT": core.LIMIT,
        "value": core.Sub().value,
        "environ": os.environ.get("ACCEL_TEST_STACK", "0"),
    }


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(TARGETS), st.integers(2, 9), st.booleans()),
    max_size=14,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS, end=st.permutations(range(4)))
def test_any_order_of_owners_composes_and_ends_as_it_began(
    world: World, steps: list[tuple[int, str, int, bool]], end: list[int]
) -> None:
    modules = world.load("lib.core", "lib", "user")
    before = fingerprint(modules)
    journals = [Journal() for _ in range(4)]
    live: list[tuple[int, str, int]] = []
    for owner, target, factor, undo in steps:
        if undo:
            assert journals[owner].revert() == ()
            live = [item for item in live if item[0] != owner]
        else:
            journals[owner].apply([_patch(target, factor)], version={}.get)
            assert journals[owner].entries[-1].state == "applied"
            live.append((owner, target, factor))
        assert _asked(*modules) == _wanted([item[1:] for item in live])
    for owner in end:
        assert journals[owner].revert() == ()
    assert_identical(fingerprint(modules), before)
    assert "ACCEL_TEST_STACK" not in os.environ
