"""collective.sums: every collective backend that is declared, at two, three and four ranks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator

from accel.testing.conformance.context import Context
from accel.testing.conformance.isolated import Died, one
from accel.testing.conformance.results import Finding
from accel.values import Decision, Feature

RANKS = (2, 3, 4)
SECONDS = 180.0
HOST, HOST_TENSORS = "cpu", "host"
DTYPES = ("float32", "bfloat16", "int64")
OPERATIONS = ("all_reduce", "broadcast", "all_gather")


def sums(context: Context) -> Iterator[Finding]:
    """Each rank is a process, and has a device of its own where the backend wants it."""
    decisions = context.accepted(Feature.COLLECTIVE)
    if not decisions:
        yield Finding(status="skipped", detail="it declares no collective that can be had here")
    for decision in decisions:
        for ranks in RANKS:
            begin = time.monotonic()
            context.tell(f"{decision.name} at {ranks} ranks")
            finding = _at(context, decision, ranks)
            yield Finding(
                case=f"{decision.name}/{ranks}",
                status=finding.status,
                detail=finding.detail,
                seconds=time.monotonic() - begin,
            )


def _at(context: Context, decision: Decision, ranks: int) -> Finding:
    """As the declaration's limits say: `tensors = "host"`, `shares_device = true`,
    `refuses_dtypes` and `refuses_operations`. Without them each rank has a device of its own.
    """
    assert context.device is not None
    limits = decision.impl.limits
    host = limits.get("tensors") == HOST_TENSORS or context.device.kind == HOST
    own = not host and not limits.get("shares_device")
    devices = [d.torch_name for d in context.subject.devices(context.here) if d.usable]
    if own and len(devices) < ranks:
        return Finding(
            status="skipped",
            detail=f"no such device here: {ranks} ranks need as many, here is {len(devices)}",
        )
    shared = HOST if host else context.device.torch_name
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "backend": decision.name,
            "devices": devices[:ranks] if own else [shared] * ranks,
            "dtypes": [name for name in DTYPES if name not in limits.get("refuses_dtypes", ())],
            "operations": [
                name for name in OPERATIONS if name not in limits.get("refuses_operations", ())
            ],
            "folder": folder,
        }
        try:
            answer = one(
                "accel.testing.conformance.inside.collecting:ranks", request, seconds=SECONDS
            )
        except Died as death:
            return Finding(status="failed", detail=str(death))
    return Finding(status="failed" if answer["problem"] else "passed", detail=answer["detail"])
