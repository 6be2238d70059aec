"""Calls a stranger's function so that nothing it does takes the caller down.

The call runs in a thread of its own that is joined before returning, so that no thread of ours is
alive when the process forks later. Only a call that hangs leaves its (daemon) thread behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Hung(Exception):
    """The call did not come back in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"did not come back within {seconds:g} s")


class Guarded(Generic[T]):
    """Either the `value` of a call or the `error` it ended with, `SystemExit` included."""

    value: T

    def __init__(self) -> None:
        self.error: BaseException | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


def guarded(function: Callable[[], T], seconds: float) -> Guarded[T]:
    """Run `function` for at most `seconds`; never raises what it raised."""
    outcome: Guarded[T] = Guarded()

    def run() -> None:
        try:
            outcome.value = function()
        except BaseException as error:  # noqa: BLE001 - sys.exit and the like are a plugin's failure too
            outcome.error = error

    thread = threading.Thread(target=run, name="accel-plugin", daemon=True)
    thread.start()
    thread.join(seconds)
    if not thread.is_alive():
        return outcome
    hung: Guarded[T] = Guarded()
    hung.error = Hung(seconds)
    return hung


def describe(error: BaseException) -> str:
    """One line on an exception for a report."""
    if isinstance(error, Hung):
        return str(error)
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r})"
    text = " ".join(str(error).split())
    return f"raised {type(error).__name__}: {text}" if text else f"raised {type(error).__name__}"
