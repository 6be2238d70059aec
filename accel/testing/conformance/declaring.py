"""probe.declared and error.remedy: what is declared can be proven, what is refused has a reason."""

from __future__ import annotations

from collections.abc import Iterator

from accel.errors import CapabilityUnavailable
from accel.testing.conformance.context import Context, Place
from accel.testing.conformance.results import Finding

FEWEST_WORDS = 2


def probes(context: Context) -> Iterator[Finding]:
    """Whatever is not declared as unavailable names the probe that proves it.

    Of a device that it finds, a plugin has something to say, if only what that lacks.
    """
    count = missing = 0
    for place in context.places if context.subject.detects else ():
        if not context.subject.impls(place.device, place.machine):
            missing += 1
            yield Finding(
                case=place.label,
                status="failed",
                detail=f"declares nothing of {place.device.name}, whose arch is "
                f"{place.device.arch!r}: neither what it can nor what it lacks",
            )
    for place, decision in context.decisions():
        impl = decision.impl
        if impl.unavailable is None:
            count += 1
            if impl.probe is None:
                missing += 1
                yield Finding(
                    case=f"{place.device.arch}/{impl.feature.value}:{impl.name}",
                    status="failed",
                    detail="is declared and has no probe; accel.probes has some for any device",
                )
    if not missing:
        yield _counted(count, "declared implementations", "it declares nothing")


def _counted(count: int, what: str, nothing: str) -> Finding:
    if count:
        return Finding(detail=f"{count} {what}")
    return Finding(status="skipped", detail=nothing)


def remedies(context: Context) -> Iterator[Finding]:
    """A device's problem has its command, and a refusal by name its reason and what else to try."""
    wrong = 0
    for place in context.places:
        problems = [*_of_the_device(place), *_of_the_refusals(context, place)]
        if problems:
            wrong += 1
            yield Finding(case=place.label, status="failed", detail="; ".join(problems[:5]))
    if not wrong:
        nothing = "it has nothing to say of any device"
        yield _counted(len(context.places), "sorts of device", nothing)


def _of_the_device(place: Place) -> Iterator[str]:
    device = place.device
    if device.problem is not None and not device.problem.strip():
        yield "its problem is empty"
    if device.problem and not (device.remedy or "").strip():
        yield f"its problem ({device.problem}) has no remedy: the one command that mends it"


def _of_the_refusals(context: Context, place: Place) -> Iterator[str]:
    capabilities = context.subject.capabilities(place.device, place.machine)
    for decision in capabilities.decisions:
        if decision.accepted:
            continue
        name = f"{decision.feature.value} {decision.name}"
        if len(decision.reason.split()) < FEWEST_WORDS:
            yield f"{name} is refused with no more than {decision.reason!r} as the reason"
        try:
            capabilities.require(decision.feature, decision.name)
        except CapabilityUnavailable as error:
            if not error.remedy.strip():
                yield f"the refusal of {name} names no remedy"
