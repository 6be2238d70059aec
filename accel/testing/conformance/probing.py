"""probe.passes and probe.fails: what is declared is proven, by what could have said no."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accel.machine import ThisMachine
from accel.resolving import key_of, unmet
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
        results = prober(impls)
    for impl in impls:
        result = results[key_of(impl)]
        finding = Finding(case=key_of(impl), detail=result.detail, seconds=result.seconds)
        if result.passed:
            yield finding
        elif context.here.simulated and (lacking := unmet(impl, ThisMachine())):
            # The simulated machine has it, this process has not.
            yield dataclasses.replace(finding, status="skipped", detail=f"not here: {lacking}")
        else:
            yield dataclasses.replace(finding, status="failed")
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
    impls = list(found.values())
    while impls:
        yield from _sabotage(context, impls, device)


def _sabotage(context: Context, impls: list[Impl], device: str) -> Iterator[Finding]:
    """Sabotage them in one interpreter while it lives; those that are done are taken off."""
    probes = [impl.probe for impl in impls if impl.probe is not None]
    request = {
        "device": device,
        "probes": [{"function": p.function, "arguments": as_json(p.arguments)} for p in probes],
    }
    limit = 180 + sum(3 * probe.seconds for probe in probes)
    said: dict[str, dict[str, Any]] = {}
    begin = time.monotonic()

    def finding(death: str = "") -> Finding:
        impl = impls.pop(0)
        assert impl.probe is not None
        judged = _judged(impl.probe, said, device, death)
        return dataclasses.replace(
            judged,
            case=f"{key_of(impl)} {_arguments(impl.probe)}".strip(),
            seconds=time.monotonic() - begin,
        )

    try:
        for answer in inside(f"{_INSIDE}:sabotage", request, seconds=limit):
            if answer["step"] != "done":
                said[answer["step"]] = answer
                continue
            yield finding()
            said, begin = {}, time.monotonic()
            if impls:
                context.tell(f"sabotaging {key_of(impls[0])}, {len(impls)} to go")
    except Died as death:
        yield finding(str(death))


def _identity(probe: Probe) -> str:
    return f"{probe.function} {sorted(as_json(probe.arguments).items())}"


def _arguments(probe: Probe) -> str:
    return ",".join(str(value) for value in as_json(probe.arguments).values())


def _judged(
    probe: Probe, said: Mapping[str, Mapping[str, Any]], device: str, death: str
) -> Finding:
    """What the answers of one probe come to, step by step; `death` is how its interpreter ended."""
    if "plain" not in said:
        return Finding(status="skipped", detail=f"on {device} it {death}")
    plain = said["plain"]
    if plain.get("absent"):
        return Finding(
            status="failed", detail=f"there is no probe {probe.function}: {plain['error']}"
        )
    if "error" in plain:
        where = "here" if device != HOST else "without the device"
        return Finding(status="skipped", detail=f"does not run {where}: {plain['error']}")
    if death:  # a crash under sabotage is a refusal
        return Finding(detail=f"under sabotage it {death}")
    refused = [answer for step, answer in said.items() if step != "plain" and "error" in answer]
    if refused:
        return Finding(detail=f"on {device}, {refused[0]['step']}: {refused[0]['error']}")
    tried = ", ".join(step for step in said if step != "plain") or "nothing that it computes"
    return Finding(
        status="failed",
        detail=f"cannot fail: {probe.function} said {plain['said']!r} on {device} all the same, "
        f"with {tried}",
    )
