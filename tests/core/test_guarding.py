"""A round of strangers' calls: each has its time, none takes the others down."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import pytest

from accel.guarding import Hung, guarded


def outcomes(*calls: Any, seconds: float = 5.0) -> list[Any]:
    return [each.error or each.value for each in guarded(calls, seconds)]


def leave() -> None:
    sys.exit(3)


def test_all_of_a_round_run_in_one_thread_which_is_gone_afterwards() -> None:
    before = threading.active_count()
    threads = outcomes(*[threading.current_thread] * 5)
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()
    assert threading.active_count() == before
    assert outcomes() == []


def test_errors_and_exits_stay_in_their_place() -> None:
    one, two, three, four = outcomes(lambda: 1, leave, lambda: 1 / 0, lambda: 4)
    assert (one, four) == (1, 4)
    assert isinstance(two, SystemExit)
    assert isinstance(three, ZeroDivisionError)


def test_what_hangs_is_given_up_and_those_after_it_have_their_full_time() -> None:
    release = threading.Event()

    def slow() -> str:
        time.sleep(0.2)
        return "slow"

    begun = time.monotonic()
    found = outcomes(slow, release.wait, slow, release.wait, slow, seconds=0.5)
    assert [f for f in found if isinstance(f, str)] == ["slow"] * 3
    assert [type(found[place]) for place in (1, 3)] == [Hung, Hung]
    assert time.monotonic() - begun < 5
    release.set()


def test_what_ends_after_it_was_given_up_changes_nothing() -> None:
    late = threading.Event()
    found = outcomes(lambda: late.wait(5), lambda: "next", seconds=0.2)
    late.set()
    time.sleep(0.1)
    assert [type(found[0]), found[1]] == [Hung, "next"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_afterwards_finds_no_thread_of_ours() -> None:
    outcomes(lambda: 1)
    child = os.fork()  # Python 3.12 warns where other threads run, and warnings are errors
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
