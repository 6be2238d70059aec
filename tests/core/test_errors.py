"""Errors reach whoever is to read them whole, also from a worker process."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel import errors
from accel.errors import AccelError, CapabilityUnavailable

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, AccelError)
]


class Both(AccelError, RuntimeError):
    """As plugins make them, so that a library's own `except` still catches it."""


@given(st.sampled_from([*KINDS, Both]), st.text(), st.text(), st.text())
def test_every_error_comes_through_a_pipe_as_it_was(
    kind: type[AccelError], wanted: str, found: str, remedy: str
) -> None:
    error = kind(wanted, found=found, remedy=remedy)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert (again.wanted, again.found, again.remedy) == (wanted, found, remedy)
        assert str(again) == str(error)
        assert again.args == error.args


def test_the_reasons_come_too() -> None:
    error = CapabilityUnavailable("no a", found="b", remedy="c", reasons=["d: e", "f: g"])
    again = pickle.loads(pickle.dumps(error))
    assert again.reasons == ("d: e", "f: g")
    assert str(again) == str(error)


def test_what_is_said_is_wanted_found_and_remedy() -> None:
    with pytest.raises(AccelError) as caught:
        raise AccelError("a is needed", found="b", remedy="make a")
    assert str(caught.value) == "a is needed\n  found: b\n  try:   make a"
