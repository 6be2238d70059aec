"""The journal: outcomes, guards, environment, seams, and the way back (law 3 and 4)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accel.patching import Journal
from accel.values import Level, Patch
from worlds import World, assert_identical, fingerprint, only, opened, replacing, times

LIB = """
    LIMIT = 5

    def f(x, scale=1):
        "Doubles."
        return x * 2 * scale

    class Model:
        def forward(self, x):
            return x + 1

    REGISTRY = {"eager": f}
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from opened(tmp_path)


@pytest.fixture
def lib(world: World) -> Any:
    world.write({"lib.py": LIB})
    return world.load("lib")


def test_apply_and_revert_one(world: World, lib: Any) -> None:
    before = fingerprint([lib])
    journal = world.journal(replacing("lib:f", times(10)))
    assert lib.f(3) == 61
    assert only(journal).state == "applied"
    assert journal.revert() == ()
    assert lib.f(3) == 6
    assert only(journal).state == "reverted"
    assert_identical(fingerprint([lib]), before)


def test_reverting_twice_is_harmless(world: World, lib: Any) -> None:
    journal = world.journal(replacing("lib:f", times(10)))
    journal.revert()
    other = world.journal(replacing("lib:f", times(3)))
    assert journal.revert() == ()
    assert lib.f(1) == 7
    other.revert()


def test_a_journal_can_be_applied_again_after_revert(world: World, lib: Any) -> None:
    original = lib.f
    journal = world.journal(replacing("lib:f", times(10)))
    journal.revert()
    journal.apply([replacing("lib:f", times(3))], version={}.get)
    assert lib.f(1) == 7
    assert [entry.state for entry in journal.entries] == ["reverted", "applied"]
    journal.revert()
    assert lib.f is original


def test_patches_apply_in_order_and_each_sees_the_one_before(world: World, lib: Any) -> None:
    world.journal(replacing("lib:f", times(10)), replacing("lib:f", times(2)))
    assert lib.f(1) == (2 * 10 + 1) * 2 + 1


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"distribution": "lib", "versions": ">=2"}, "here is 1.5+local"),
        ({"distribution": "other", "versions": ">=2"}, "not installed"),
        ({"parameters": ("x", "mask")}, "no parameter mask"),
        ({"guard": lambda original: f"{original.__name__} is fine"}, "f is fine"),
    ],
)
def test_guards_skip_with_a_reason(
    world: World, lib: Any, fields: dict[str, Any], detail: str
) -> None:
    original = lib.f
    entry = only(
        world.journal(replacing("lib:f", times(10), **fields), versions={"lib": "1.5+local"})
    )
    assert entry.state == "skipped"
    assert detail in entry.detail
    assert lib.f is original


@pytest.mark.parametrize(
    "fields",
    [
        {"distribution": "lib", "versions": "<=1.5"},
        {"distribution": "lib", "versions": ">=1.5.dev0,<2"},
        {"distribution": "unknown"},
        {"parameters": ("x", "scale")},
        {"guard": lambda original: None},
    ],
)
def test_guards_let_pass(world: World, lib: Any, fields: dict[str, Any]) -> None:
    world.journal(replacing("lib:f", times(10), **fields), versions={"lib": "1.5+local"})
    assert lib.f(3) == 61


def test_a_version_in_development_counts(world: World, lib: Any) -> None:
    patch = replacing("lib:f", times(10), distribution="lib", versions=">=1,<3")
    assert only(world.journal(patch, versions={"lib": "2.0.dev1"})).state == "applied"


def test_parameters_are_the_originals_also_above_another_layer(world: World, lib: Any) -> None:
    world.journal(replacing("lib:f", times(10)), replacing("lib:f", times(2), parameters=("x",)))
    assert lib.f(1) == 43


def test_what_is_not_needed_is_skipped(world: World, lib: Any) -> None:
    entry = only(world.journal(replacing("lib:f", lambda original: original)))
    assert (entry.state, entry.detail) == ("skipped", "not needed")


@pytest.mark.parametrize(
    "target", ["lib:g", "lib:Model.backward", "lib:Nothing.at.all", "lib:T[a]"]
)
def test_a_missing_target_is_skipped(world: World, lib: Any, target: str) -> None:
    entry = only(world.journal(replacing(target, times(10))))
    assert entry.state == "skipped"
    assert target in entry.detail
    assert world.journal(replacing(target, times(10), optional=True)).entries == ()


def _explode(_: Any) -> Any:
    raise ValueError("broken plugin")


def _quit(_: Any) -> Any:
    sys.exit(3)


@pytest.mark.parametrize(
    ("patch", "detail"),
    [
        (replacing("lib:f", _explode), "ValueError: broken plugin"),
        (replacing("lib:f", _quit), "SystemExit: 3"),
        (replacing("lib:f", times(2), guard=_explode), "ValueError: broken plugin"),
        (replacing("lib:f", times(2), distribution="lib", versions="nonsense"), "nonsense"),
        (replacing("lib", times(2)), "cannot be 'lib'"),
        (replacing("int:f", times(2), seam=_explode), "exactly one thing"),
        (Patch(target="lib", reason="", seam=_explode), "ValueError: broken plugin"),
        (Patch(target="lib", reason="", seam=lambda module: None), "cannot be undone"),
        (Patch(target="lib:f", reason="", seam=lambda module: print), "cannot be 'lib:f'"),
        (Patch(target="lib:f", reason=""), "exactly one thing"),
    ],
)
def test_a_failing_patch_is_contained(world: World, lib: Any, patch: Patch, detail: str) -> None:
    before = fingerprint([lib])
    journal = world.journal(patch, replacing("lib:f", times(10)), versions={"lib": "1"})
    assert journal.entries[0].state == "failed"
    assert detail in journal.entries[0].detail
    assert lib.f(3) == 61
    journal.revert()
    assert journal.entries[0].state == "failed"
    assert_identical(fingerprint([lib]), before)


def test_nothing_is_half_applied_where_writing_fails(world: World) -> None:
    entry = only(world.journal(replacing("builtins:int.bit_length", lambda original: len)))
    assert entry.state == "failed"
    assert (5).bit_length() == 3


def test_the_environment_is_set_and_restored(world: World, monkeypatch: Any) -> None:
    monkeypatch.setenv("ACCEL_TEST_SET", "old")
    monkeypatch.setenv("ACCEL_TEST_UNSET", "there")
    monkeypatch.delenv("ACCEL_TEST_NEW", raising=False)
    wanted = {"ACCEL_TEST_SET": "new", "ACCEL_TEST_UNSET": None, "ACCEL_TEST_NEW": "1"}
    journal = world.journal(Patch(target="os:environ", reason="", environ=wanted))
    assert only(journal).state == "applied"
    assert {name: os.environ.get(name) for name in wanted} == wanted
    journal.revert()
    assert [os.environ.get(name) for name in wanted] == ["old", "there", None]


def test_two_owners_of_one_variable(world: World, monkeypatch: Any) -> None:
    monkeypatch.delenv("ACCEL_TEST", raising=False)
    first = world.journal(Patch(target="os:environ", reason="", environ={"ACCEL_TEST": "1"}))
    second = world.journal(Patch(target="os:environ", reason="", environ={"ACCEL_TEST": "1"}))
    assert only(second).state == "applied"
    first.revert()
    assert os.environ["ACCEL_TEST"] == "1"
    second.revert()
    assert "ACCEL_TEST" not in os.environ


def test_a_variable_set_back_to_what_it_was_is_a_layer_too(world: World, monkeypatch: Any) -> None:
    monkeypatch.setenv("ACCEL_TEST", "1")
    for value in ("2", "1"):
        world.journal(Patch(target="os:environ", reason="", environ={"ACCEL_TEST": value}))
    assert os.environ["ACCEL_TEST"] == "1"
    world.journals[0].revert()
    assert os.environ["ACCEL_TEST"] == "1"


def test_a_variable_changed_by_someone_else_is_named(world: World, monkeypatch: Any) -> None:
    monkeypatch.setenv("ACCEL_TEST", "old")
    journal = world.journal(Patch(target="os:environ", reason="", environ={"ACCEL_TEST": "1"}))
    os.environ["ACCEL_TEST"] = "theirs"
    (note,) = journal.revert()
    assert os.environ["ACCEL_TEST"] == "old"
    assert "theirs" in note.message
    assert note.subject == "os:environ[ACCEL_TEST]"


def test_all_of_the_variables_or_none(world: World) -> None:
    values: dict[str, Any] = {"ACCEL_TEST_A": "1", "ACCEL_TEST_B": 2}
    entry = only(world.journal(Patch(target="os:environ", reason="", environ=values)))
    assert entry.state == "failed"
    assert "ACCEL_TEST_A" not in os.environ


def test_variables_that_are_so_already_are_not_needed(world: World, monkeypatch: Any) -> None:
    monkeypatch.setenv("ACCEL_TEST", "1")
    patch = Patch(target="os:environ", reason="", environ={"ACCEL_TEST": "1"})
    assert only(world.journal(patch)).detail == "not needed"


def test_seams_are_undone_in_reverse(world: World, lib: Any) -> None:
    log: list[str] = []

    def seam(name: str) -> Patch:
        def enter(module: Any) -> Any:
            module.REGISTRY[name] = name
            log.append(f"+{name}")
            return lambda: (log.append(f"-{name}"), module.REGISTRY.pop(name))

        return Patch(target="lib", reason="", seam=enter)

    journal = world.journal(seam("a"), seam("b"))
    assert set(lib.REGISTRY) == {"eager", "a", "b"}
    journal.revert()
    assert log == ["+a", "+b", "-b", "-a"]
    assert set(lib.REGISTRY) == {"eager"}


def test_a_seam_whose_undo_raises_is_reported(world: World, lib: Any) -> None:
    def undo() -> None:
        raise KeyError("gone")

    journal = world.journal(
        replacing("lib:f", times(10)),
        Patch(target="lib", reason="", seam=lambda module: undo, owner="them"),
    )
    (note,) = journal.revert()
    assert (note.level, note.subject, note.origin) == (Level.ERROR, "lib", "them")
    assert lib.f(3) == 6


def test_one_owner_can_be_reverted_alone(world: World, lib: Any) -> None:
    original = lib.f
    journal = world.journal(
        replacing("lib:f", times(10), owner="a"),
        replacing("lib:f", times(2), owner="b"),
        replacing("lib:LIMIT", lambda n: n + 1, owner="a"),
        replacing("not_there:f", times(2), owner="a"),
        replacing("not_there:f", times(2), owner="b"),
    )
    journal.revert("a")
    assert [e.state for e in journal.entries] == [
        "reverted", "applied", "reverted", "reverted", "waiting",
    ]  # fmt: skip
    assert (lib.f(1), lib.LIMIT) == (5, 5)
    journal.revert()
    assert lib.f is original


def test_a_journal_starts_empty_and_reverts_to_nothing() -> None:
    assert Journal().entries == ()
    assert Journal().revert() == ()
