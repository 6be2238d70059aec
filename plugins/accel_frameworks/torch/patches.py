"""The small patches that the redirection is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accel.values import Patch

REASON = "names CUDA, which is not the device that is here"


def patch(target: str, replace: Callable[[Any], Any]) -> Patch:
    """One name; left out without a word where this torch does not have it."""
    return Patch(target=target, reason=REASON, replace=replace, optional=True)


def instead(made: Any) -> Callable[[Any], Any]:
    """A `replace` that puts `made` there, whatever was there before."""
    return lambda _original: made
