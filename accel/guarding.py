"""Calls strangers' functions so that nothing they do takes the caller down.

The calls run one after another in a thread of their own that is joined before returning, so that
no thread of ours is alive when the process forks later. Only a call that hangs leaves its (daemon)
thread behind; those after it get another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any


class Hung(Exception):
    """The call did not come back in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"did not come back within {seconds:g} s")


class Guarded:
    """Either the `value` of a call or the `error` it ended with, `SystemExit` included."""

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


def guarded(calls: Sequence[Callable[[], Any]], seconds: float) -> list[Guarded]:
    """The outcome of each call, each run for at most `seconds`; never raises what they raised."""
    outcomes: list[Guarded] = []
    while len(outcomes) < len(calls):
        outcomes += _Round(calls[len(outcomes) :], seconds).run()
    return outcomes


class _Round:
    """One thread and the calls it gets through: all of them, or up to the first that hangs."""

    def __init__(self, calls: Sequence[Callable[[], Any]], seconds: float) -> None:
        self._calls = calls
        self._seconds = seconds
        self._outcomes: list[Guarded] = []
        self._begun = time.monotonic()
        self._given_up = False
        self._lock = threading.Lock()

    def run(self) -> list[Guarded]:
        thread = threading.Thread(target=self._work, name="accel-plugin", daemon=True)
        thread.start()
        while True:
            thread.join(max(0.0, self._begun + self._seconds - time.monotonic()))
            if not thread.is_alive():
                return self._outcomes
            with self._lock:
                finished = len(self._outcomes) == len(self._calls)
                if not finished and time.monotonic() >= self._begun + self._seconds:
                    self._given_up = True
                    return [*self._outcomes, Guarded(error=Hung(self._seconds))]

    def _work(self) -> None:
        for call in self._calls:
            outcome = _tried(call)
            with self._lock:
                if self._given_up:
                    return
                self._outcomes.append(outcome)
                self._begun = time.monotonic()


def _tried(call: Callable[[], Any]) -> Guarded:
    try:
        return Guarded(call())
    except BaseException as error:  # noqa: BLE001 - sys.exit and the like are a plugin's failure too
        return Guarded(error=error)


def describe(error: BaseException) -> str:
    """One line on an exception for a report."""
    if isinstance(error, Hung):
        return str(error)
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r})"
    text = " ".join(str(error).split())
    return f"raised {type(error).__name__}: {text}" if text else f"raised {type(error).__name__}"
