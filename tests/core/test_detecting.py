"""accel.detecting: visible devices, torch's build, and bridges to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.detecting import (
    assignments,
    bridge_problem,
    module_version,
    named_in_local,
    same_number,
    shown,
    torch_build,
    torch_problem,
    visible,
)
from accel.recording import RecordedMachine, parse

VERSION_PY = """from typing import Optional
__all__ = ['__version__', 'debug', 'toolkit']
__version__ = '2.13.0+cpu'
debug = False
toolkit: Optional[str] = None
other: Optional[str] = '13.0'
computed = open('nothing')
"""


def machine(**parts: object) -> RecordedMachine:
    return parse({"schema": "accel-machine/1", **parts}, "fake")


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        (None, (0, 1, 2, 3)),
        ("", ()),
        ("-1", ()),
        ("2", (2,)),
        ("2,0", (2, 0)),
        (" 3 , 1 ", (3, 1)),
        ("1,7,2", (1,)),
        ("1,-1,2", (1,)),
        ("1,,2", (1,)),
        ("0,1,0", ()),
        ("no such name,0", ()),
        ("٣", ()),
        ("99999999999999999999", ()),
    ],
)
def test_visible_numbers(setting: str | None, seen: tuple[int, ...]) -> None:
    assert visible(setting, 4) == seen


def test_visible_names_by_their_start_unless_two_begin_so() -> None:
    names = ["GPU-aa1", "GPU-ab2", "GPU-c"]
    assert visible("GPU-c,GPU-aa", 3, names) == (2, 0)
    assert visible("GPU-c,GPU-a,0", 3, names) == (2,)
    assert visible("GPU-c", 3) == ()


@given(st.text() | st.none(), st.integers(0, 9))
def test_visible_is_some_of_the_devices_each_once(setting: str | None, count: int) -> None:
    seen = visible(setting, count)
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(count))


@given(st.lists(st.integers(0, 7), unique=True))
def test_visible_keeps_the_order_of_the_list(order: list[int]) -> None:
    expected = tuple(order)
    assert visible(",".join(map(str, order)), 8) == expected


def test_shown_says_so_where_a_setting_hides_everything() -> None:
    assert shown(machine(env={"X": "1"}), "X", 2) == ((1,), None)
    assert shown(machine(), "X", 2) == ((0, 1), None)
    assert shown(machine(env={"X": "5"}), "X", 0) == ((), None)
    numbers, problem = shown(machine(env={"X": "5"}), "X", 2)
    assert numbers == (0, 1)
    assert problem is not None
    assert problem.remedy == "unset X"


def test_assignments_are_read_and_not_run() -> None:
    found = assignments(VERSION_PY)
    assert found["__version__"] == "2.13.0+cpu"
    assert found["toolkit"] is None
    assert found["other"] == "13.0"
    assert "computed" not in found


@given(st.text())
def test_assignments_of_any_text(text: str) -> None:
    assert isinstance(assignments(text), dict)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}_x", fullmatch=True), st.text() | st.none()))
def test_assignments_give_back_what_was_written(values: dict[str, str | None]) -> None:
    assert assignments("".join(f"{key} = {value!r}\n" for key, value in values.items())) == values


def test_torch_build_is_the_files_word_over_the_metadatas() -> None:
    here = machine(
        distributions={"torch": "2.13.0"},
        distribution_files={"torch:torch/version.py": VERSION_PY},
    )
    build = torch_build(here)
    assert build["version"] == "2.13.0+cpu"
    assert build["other"] == "13.0"
    assert torch_build(machine(distributions={"torch": "2.13.0"})) == {"version": "2.13.0"}
    assert torch_build(machine()) == {}


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ("2.5.0+vendor", None),
        ("2.11.0a0+gitabc", None),
        ("2.4.1", "torch 2.4.1 is installed; torch>=2.5 is needed"),
        ("not a version", None),
    ],
)
def test_torch_problem(version: str, problem: str | None) -> None:
    found = torch_problem(machine(distributions={"torch": version}), needs=">=2.5", install="cmd")
    assert (found.problem if found else None) == problem


def test_torch_missing_is_a_problem_with_the_remedy_given() -> None:
    assert torch_problem(machine(), install="cmd") == ("torch is not installed", "cmd")


@pytest.mark.parametrize(
    ("distributions", "problem", "remedy"),
    [
        ({}, "torch and torch_x are not installed", "pip install torch_x==VERSION"),
        (
            {"torch": "2.7.1+cpu"},
            "torch_x is not installed, so torch 2.7.1+cpu has no such device",
            "pip install torch_x==2.7.1",
        ),
        (
            {"torch": "2.8.0", "torch-x": "2.7.1.post2"},
            "torch_x 2.7.1.post2 is for torch 2.7.1; torch 2.8.0 is installed",
            "pip install torch_x==2.8.0",
        ),
        ({"torch": "2.7.0", "torch_x": "2.7.1.post2"}, None, None),
        ({"torch": "a fork", "torch_x": "2.7.1"}, None, None),
    ],
)
def test_bridge_problem(
    distributions: dict[str, str], problem: str | None, remedy: str | None
) -> None:
    here = machine(distributions=distributions)
    found = bridge_problem(here, "torch_x", install="pip install torch_x=={torch}")
    assert (found.problem if found else None) == problem
    assert (found.remedy if found else None) == remedy


def test_what_a_bridge_was_built_for() -> None:
    assert same_number("2.7.1.post2+abc") == "2.7.1"
    assert same_number("none") is None
    assert named_in_local("1.33.1+torch2.11.0") == "2.11.0"
    assert named_in_local("1.33.1+build3.torch2.11.0") == "2.11.0"
    assert named_in_local("2.8.3+cu12torch2.9cxx11abiTRUE") == "2.9"
    assert named_in_local("1.33.1") is None
    assert named_in_local("torch2.9") is None


@given(st.text())
def test_any_version_of_a_bridge(version: str) -> None:
    for built_for in (same_number, named_in_local):
        assert built_for(version) is None or built_for(version)


def test_the_first_loaded_modules_version() -> None:
    here = machine(files={"/sys/module/b/version": "6.3.1\n", "/sys/module/c/version": "1\n"})
    assert module_version(here, "a", "b", "c") == "6.3.1"
    assert module_version(here, "a") is None
