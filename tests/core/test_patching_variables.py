"""Environment variables that a patch sets, and its undo."""

from __future__ import annotations

import os

import pytest

from accel.patching.variables import Variables


@pytest.mark.parametrize("before", [None, "", "old"])
def test_variables_are_given_back_as_they_were(before: str | None) -> None:
    if before is not None:
        os.environ["ACCEL_TEST_SET"] = before
    variables = Variables()
    for value in ("1", "2"):
        variables.set("ACCEL_TEST_SET", value)
        assert os.environ["ACCEL_TEST_SET"] == value
    variables.take_back()
    assert os.environ.get("ACCEL_TEST_SET") == before
    os.environ["ACCEL_TEST_SET"] = "2"
    variables.take_back()
    assert os.environ["ACCEL_TEST_SET"] == "2"


@pytest.mark.parametrize("since", [None, "3"])
def test_what_was_set_since_is_left_alone(since: str | None) -> None:
    variables = Variables()
    variables.set("ACCEL_TEST_SET", "1")
    variables.set("ACCEL_TEST_OTHER", "1")
    if since is None:
        del os.environ["ACCEL_TEST_SET"]
    else:
        os.environ["ACCEL_TEST_SET"] = since
    variables.take_back()
    assert os.environ.get("ACCEL_TEST_SET") == since
    assert "ACCEL_TEST_OTHER" not in os.environ


def test_several_at_once() -> None:
    names = ("ACCEL_TEST_A", "ACCEL_TEST_B", "ACCEL_TEST_C")
    os.environ["ACCEL_TEST_B"] = ""
    variables = Variables()
    for name in names:
        variables.set(name, "eth0")
    variables.set("ACCEL_TEST_A", "eth1")
    assert [os.environ[name] for name in names] == ["eth1", "eth0", "eth0"]
    os.environ["ACCEL_TEST_C"] = "the user's"
    variables.take_back()
    variables.take_back()
    assert [os.environ.get(name) for name in names] == [None, "", "the user's"]
