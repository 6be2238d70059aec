"""dtype.computes: every dtype that is declared computes, over torch's own operator database."""

from __future__ import annotations

import functools
import importlib.resources
import sys
import time
from collections.abc import Iterator
from typing import Any

from accel.testing.conformance.context import Context
from accel.testing.conformance.isolated import Died, inside
from accel.testing.conformance.results import Finding
from accel.values import Feature

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMPUTES = ("float64", "float32", "bfloat16", "float16")
"""What operators take. Other names (float8, tf32, int8) are modes or formats of a few of them."""
SECONDS = 900.0
CRASHES = 5
"""So many operators may take the interpreter down before the rest is given up."""


@functools.cache
def operators() -> dict[str, Any]:
    """The data file `operators.toml`."""
    file = importlib.resources.files("accel.testing.conformance") / "operators.toml"
    found: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    return found


def names() -> list[str]:
    """Every operator of every group, in the order of the file."""
    return [name for group in operators()["groups"].values() for name in group]


def computes(context: Context) -> Iterator[Finding]:
    """Each operator in each dtype, forward and backward."""
    decisions = context.accepted(Feature.DTYPE)
    if not decisions:
        yield Finding(status="skipped", detail="it declares no dtype that can be had here")
    for decision in decisions:
        if decision.name in COMPUTES:
            yield from _in_dtype(context, decision.name)
        else:
            yield Finding(
                case=decision.name,
                status="skipped",
                detail="a format or mode of a few operators, which its probe computes in",
            )


def _in_dtype(context: Context, dtype: str) -> Iterator[Finding]:
    assert context.device is not None
    due, crashes = [*names(), *operators()["optimizers"]], 0
    total = len(due)
    while due:
        request = {"device": context.device.torch_name, "dtype": dtype, "wanted": due}
        begin, running = time.monotonic(), ""
        try:
            for answer in inside(
                "accel.testing.conformance.inside.computing:compute", request, seconds=SECONDS
            ):
                if "begin" in answer:
                    running = answer["begin"]
                    context.tell(f"{dtype}: {running} ({total - len(due) + 1} of {total})")
                    continue
                now = time.monotonic()
                yield Finding(
                    case=f"{dtype}/{answer['operator']}",
                    status=answer["status"],
                    detail=answer["detail"],
                    seconds=now - begin,
                )
                begin, running = now, ""
                due.remove(answer["operator"])
            return
        except Died as death:
            crashes += 1
            yield Finding(case=f"{dtype}/{running or 'start'}", status="failed", detail=str(death))
            if not running or crashes == CRASHES:
                yield Finding(
                    case=f"{dtype}/rest",
                    status="failed",
                    detail=f"{len(due)} operators were not tried after this",
                )
                return
            due.remove(running)
