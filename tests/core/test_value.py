"""Values are to others what frozen dataclasses are."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.machine import Pci
from accel.value import Value, field, field_names, replaced
from accel.values import EMPTY, Device, Impl, Patch, as_json
from fakes import device


class Point(Value):
    x: int
    y: int = 2
    label: str = field(default="p", compare=False)
    rest: Any = field(default=None, hash=False)


class Placed(Value, kw_only=False):
    a: int
    b: str = "b"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Twin:
    x: int
    y: int = 2
    label: str = dataclasses.field(default="p", compare=False)
    rest: Any = dataclasses.field(default=None, hash=False)


numbers = st.integers(-2, 2)
given_fields = st.fixed_dictionaries(
    {"x": numbers}, optional={"y": numbers, "label": st.text(max_size=2), "rest": numbers}
)


@given(given_fields, given_fields)
def test_equality_hash_and_repr_are_those_of_a_dataclass(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert (Point(**one) == Point(**other)) == (Twin(**one) == Twin(**other))
    assert (hash(Point(**one)) == hash(Point(**other))) == (
        hash(Twin(**one)) == hash(Twin(**other))
    )
    assert repr(Point(**one)).removeprefix("Point") == repr(Twin(**one)).removeprefix("Twin")
    assert replaced(Point(**one), **other) == Point(**{**one, **other})
    assert vars(Point(**one)) == {
        name: getattr(Twin(**one), name) for name in ("x", "y", "label", "rest")
    }


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Point(), "lacks 'x'"),
        (lambda: Point(x=1, z=1), "no field 'z'"),
        (lambda: Point(1), "takes 0 positional"),
        (lambda: Placed(1, "b", 3), "takes 2 positional"),
        (lambda: Placed(1, a=1), "multiple values for a"),
        (lambda: replaced(Point(x=1), z=1), "no field 'z'"),
        (lambda: Device(vendor="acme"), "lacks 'name', 'kind', 'arch'"),
    ],
)
def test_what_does_not_fit_is_a_type_error(make: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        make()


def test_a_value_is_frozen() -> None:
    point = Point(x=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    assert point == Point(x=1)
    assert Point(x=1) != Placed(1)


def test_dataclasses_take_it_for_one_of_theirs() -> None:
    one = device(attributes={"a": 1})
    assert dataclasses.is_dataclass(one)
    assert [each.name for each in dataclasses.fields(Device)] == list(field_names(Device))
    assert dataclasses.replace(one, index=3).index == 3
    assert dataclasses.asdict(one)["attributes"] == {"a": 1}
    assert dataclasses.fields(Impl)[0].name == "feature"
    assert {each.name for each in dataclasses.fields(Patch) if not each.compare} == {
        "replace",
        "seam",
        "guard",
    }

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Wider(Point):
        z: int = 3

    assert Wider(x=1, z=4) == Wider(x=1, z=4)
    assert [each.name for each in dataclasses.fields(Wider)] == [*field_names(Point), "z"]


def test_a_value_may_be_extended_copied_and_pickled() -> None:
    class Longer(Point):
        z: int = 3

    assert field_names(Longer) == ("x", "y", "label", "rest", "z")
    assert Longer(x=1, z=4).z == 4
    card = Pci("0000:01:00.0", "acce", "0001", "120000")
    assert pickle.loads(pickle.dumps(card)) == card
    assert copy.deepcopy(card) == card
    match card:
        case Pci(address, vendor):
            assert (address, vendor) == ("0000:01:00.0", "acce")


def test_a_device_travels_to_a_worker_and_back() -> None:
    """With its defaults, as a data set that holds it is sent to a data loader's worker."""
    one = device()
    assert pickle.loads(pickle.dumps(one)) == one
    assert pickle.loads(pickle.dumps(one)).attributes is EMPTY
    assert copy.deepcopy(one) == one
    assert dataclasses.asdict(one)["attributes"] == {}
    assert repr(one.attributes) == "{}"


def test_json_is_plain_for_values_and_dataclasses() -> None:
    assert as_json(Point(x=1, rest=(Placed(1),))) == {
        "x": 1,
        "y": 2,
        "label": "p",
        "rest": [{"a": 1, "b": "b"}],
    }
    assert as_json(Twin(x=1, rest=len)) == {"x": 1, "y": 2, "label": "p"}
