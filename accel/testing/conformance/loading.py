"""load.*: the plugin comes in light, quickly, and with hooks that there are."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator

from accel.testing.conformance.context import Context
from accel.testing.conformance.isolated import Died, inside, one
from accel.testing.conformance.results import Finding

LIMIT_MS = 50.0
ATTEMPTS = 9
SECONDS = 60.0
_INSIDE = "accel.testing.conformance.inside.loading"


def hooks(context: Context) -> Iterator[Finding]:
    """In a fresh interpreter first: a plugin may end the process that loads it."""
    try:
        answer = one(f"{_INSIDE}:load", context.entry, seconds=SECONDS)
    except Died as death:
        yield Finding(status="failed", detail=f"loading it {death}")
        return
    if answer["status"] != "loaded":
        yield Finding(status="failed", detail=f"it {answer['status']} to load: {answer['problem']}")
    elif not answer["hooks"]:
        yield Finding(
            status="failed",
            detail="it implements no hook; mark its functions with accel.hookimpl",
        )
    else:
        yield Finding(detail=", ".join(answer["hooks"]))


def light(context: Context) -> Iterator[Finding]:
    """No torch and no thread, after loading and after detection on this machine."""
    begin = time.monotonic()
    try:
        for answer in inside(f"{_INSIDE}:weigh", context.entry, seconds=SECONDS):
            problems = [
                *(f"{name} was imported" for name in answer["heavy"]),
                *(f"thread {name!r} was left running" for name in answer["threads"]),
            ]
            yield Finding(
                case=answer["case"],
                status="failed" if problems else "passed",
                detail="; ".join(problems),
                seconds=time.monotonic() - begin,
            )
    except Died as death:
        yield Finding(status="failed", detail=str(death))


def fast(context: Context) -> Iterator[Finding]:
    """The least of several times, each in a fresh interpreter, less what an empty module takes."""
    best = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        env = {"PYTHONDONTWRITEBYTECODE": ""}
        if not all(os.access(place, os.W_OK) for place in context.subject.folders):
            env["PYTHONPYCACHEPREFIX"] = folder  # else every attempt would compile the sources anew
        attempt = 0
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = one(f"{_INSIDE}:clock", context.entry, seconds=SECONDS, env=env)
            except Died as death:
                yield Finding(status="failed", detail=str(death))
                return
            best = min(best, answer["plugin_ms"] - answer["empty_ms"])
            if best < LIMIT_MS and attempt >= 2:
                break
    least = max(best, 0.0)
    yield Finding(
        status="passed" if best < LIMIT_MS else "failed",
        detail=f"{least:.1f} ms, best of {attempt}; at most {LIMIT_MS:g} ms",
    )
