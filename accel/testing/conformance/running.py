"""runtime.*: what torch's calls on device numbers, memory, streams, events and seeds mean."""

from __future__ import annotations

import time
from collections.abc import Iterator

from accel.testing.conformance.context import Context
from accel.testing.conformance.isolated import Died, inside
from accel.testing.conformance.results import Finding

SECONDS = 300.0


def device(context: Context) -> Iterator[Finding]:
    """Numbers, the current device, copies there and back."""
    yield from _group(context, "device")


def memory(context: Context) -> Iterator[Finding]:
    """Statistics go up and down with what is allocated."""
    yield from _group(context, "memory")


def stream(context: Context) -> Iterator[Finding]:
    """Work of a stream is done after it is waited for, and the former stream comes back."""
    yield from _group(context, "stream")


def event(context: Context) -> Iterator[Finding]:
    """An event is passed after what was recorded before it, and time runs forward."""
    yield from _group(context, "event")


def random(context: Context) -> Iterator[Finding]:
    """The same seed gives the same numbers, another gives others."""
    yield from _group(context, "random")


def _group(context: Context, group: str) -> Iterator[Finding]:
    assert context.device is not None
    request = {"device": context.device.torch_name, "group": group}
    begin, running = time.monotonic(), ""
    try:
        for answer in inside(
            "accel.testing.conformance.inside.running:check", request, seconds=SECONDS
        ):
            if "begin" in answer:
                running = answer["begin"]
                continue
            now = time.monotonic()
            yield Finding(**answer, seconds=now - begin)
            begin, running = now, ""
    except Died as death:
        yield Finding(case=running, status="failed", detail=str(death))
