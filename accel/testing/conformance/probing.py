"""probe.passes and probe.fails: what is declared is proven, by something that could have said no."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from accel.resolving import key_of
from accel.testing.conformance.context import Context
from accel.testing.conformance.isolated import Died, inside
from accel.testing.conformance.results import Finding
from accel.values import Impl, Probe, as_json

_INSIDE = "accel.testing.conformance.inside.probing"
HOST = "cpu"


def passes(context: Context) -> Iterator[Finding]:
    """Everything that is declared and installed, each by its own probe, nothing remembered."""
    from accel.probing import Prober

    assert context.device is not None
    impls = [d.impl for d in context.capabilities.decisions if d.accepted and d.impl.probe]
    with tempfile.TemporaryDirectory() as folder:
        prober = Prober(
            context.device, context.here, cache_dir=Path(folder) / "cache", progress=context.tell
        )
        for impl in impls:
            result = prober([impl])[key_of(impl)]
            yield Finding(
                case=key_of(impl),
                status="passed" if result.passed else "failed",
                detail=result.detail,
                seconds=result.seconds,
            )
    if not impls:
        yield Finding(status="skipped", detail="nothing is declared, installed and has a probe")


def fails(context: Context) -> Iterator[Finding]:
    """Each probe with a torch that computes wrongly, or without the modules it asks for.

    On the device where it is here, else on the CPU. A probe that the CPU cannot run is skipped.
    """
    found: dict[str, Impl] = {}
    for _, decision in context.decisions():
        if decision.impl.unavailable is None and decision.impl.probe is not None:
            found.setdefault(_identity(decision.impl.probe), decision.impl)
    if not found:
        yield Finding(status="skipped", detail="it declares no probe")
    device = context.device.torch_name if context.device else HOST
    for number, impl in enumerate(found.values(), 1):
        context.tell(f"sabotaging probe {number} of {len(found)}: {key_of(impl)}")
        assert impl.probe is not None
        begin = time.monotonic()
        finding = _sabotaged(impl, impl.probe, device)
        yield Finding(
            case=f"{key_of(impl)} {_arguments(impl.probe)}".strip(),
            status=finding.status,
            detail=finding.detail,
            seconds=time.monotonic() - begin,
        )


def _identity(probe: Probe) -> str:
    return f"{probe.function} {sorted(as_json(probe.arguments).items())}"


def _arguments(probe: Probe) -> str:
    return ",".join(str(value) for value in as_json(probe.arguments).values())


def _sabotaged(impl: Impl, probe: Probe, device: str) -> Finding:
    request = {
        "function": probe.function,
        "device": device,
        "arguments": as_json(probe.arguments),
    }
    said = {}
    try:
        for answer in inside(f"{_INSIDE}:sabotage", request, seconds=3 * probe.seconds + 180):
            said[answer["step"]] = answer
    except Died as death:
        # A crash under sabotage is a refusal; one before it is no proof of anything.
        if "plain" not in said:
            return Finding(status="skipped", detail=f"on {device} it {death}")
        return Finding(detail=f"under sabotage it {death}")
    plain = said["plain"]
    if "error" in plain:
        where = "here" if device != HOST else "without the device"
        return Finding(status="skipped", detail=f"does not run {where}: {plain['error']}")
    refused = [answer for step, answer in said.items() if step != "plain" and "error" in answer]
    if refused:
        return Finding(detail=f"on {device}, {refused[0]['step']}: {refused[0]['error']}")
    tried = ", ".join(step for step in said if step != "plain")
    return Finding(
        status="failed",
        detail=f"cannot fail: {probe.function} said {plain['said']!r} on {device} all the same, "
        f"with {tried}",
    )
