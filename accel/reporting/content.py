"""What a report says, before it takes a form: rows of words in a fixed order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from accel.values import Decision, Device, Feature, Level, Note, Patch

if TYPE_CHECKING:
    from accel.planning import Plan

GIB = 2**30
_LEVELS = list(Level)[::-1]


class EntryLike(Protocol):
    """What became of a patch: an entry of the patch journal."""

    @property
    def patch(self) -> Patch: ...
    @property
    def state(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def also(self) -> tuple[str, ...]: ...


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen of a feature, and why."""

    feature: str
    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One decision. `source` is a number in `Content.sources`, 0 for none."""

    name: str
    chosen: bool
    accepted: bool
    stage: str
    reason: str
    source: int

    @property
    def verdict(self) -> str:
        return "accepted" if self.accepted else "rejected"


@dataclasses.dataclass(frozen=True)
class Change:
    """A patch and what became of it."""

    state: str
    target: str
    why: str
    detail: str
    upstream: str
    until: str


@dataclasses.dataclass(frozen=True)
class Content:
    """A whole report."""

    title: str
    facts: tuple[tuple[str, str], ...]
    choices: tuple[Choice, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    sources: tuple[str, ...]
    changes: tuple[Change, ...]
    notes: tuple[Note, ...]
    failures: tuple[tuple[str, str], ...]


def compose(plan: Plan, notes: Sequence[Note] | None, entries: Sequence[EntryLike]) -> Content:
    """The content of a report on `plan`; `notes` default to the plan's own."""
    sources: dict[str, int] = {}
    groups = tuple(
        (feature.value, tuple(_row(decision, plan, sources) for decision in decisions))
        for feature in Feature
        if (decisions := plan.of(feature))
    )
    device = plan.device
    return Content(
        title=plain(f"{device.name} ({device.arch}) as {device.torch_name}"),
        facts=tuple(_facts(plan)),
        choices=tuple(_choices(plan)),
        groups=groups,
        sources=tuple(sources),
        changes=tuple(_changes(plan, entries)),
        notes=_notes(plan, plan.notes if notes is None else notes),
        failures=tuple(_failures(plan)),
    )


def plain(text: object) -> str:
    """One printable line: a name may come from firmware, or from a file of a stranger."""
    line = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "�" for letter in line)


def memory_of(device: Device) -> str:
    """`79.6 GiB`, `119.7 GiB unified memory`; empty where it is not known."""
    if device.memory is None:
        return ""
    shared = " unified memory" if device.memory_model == "unified" and device.kind != "cpu" else ""
    return f"{device.memory / GIB:.1f} GiB{shared}"


def describe(device: Device) -> str:
    """A device in one line, without its name."""
    parts = [
        device.vendor,
        device.arch,
        f"family {device.family}" if device.family else "",
        memory_of(device),
        f"driver {device.driver}" if device.driver else "",
        f"toolkit {device.toolkit}" if device.toolkit else "",
    ]
    return plain(", ".join(part for part in parts if part))


def proof_of(plan: Plan) -> str:
    """How far the decisions were taken."""
    proven = sum(decision.proven for decision in plan.decisions)
    if not plan.here:
        return "recorded: decisions are declared and installed; nothing was probed"
    if not proven:
        nothing = "decisions are declared and installed; nothing was probed"
        return f"simulated: {nothing}" if plan.simulated else nothing
    accepted = sum(d.accepted for d in plan.decisions)
    if plan.simulated:
        return (
            f"simulated: {proven} of {accepted} accepted decisions passed on the simulator, which "
            "computes on the host's processor; nothing was measured"
        )
    return f"{proven} of {accepted} accepted decisions proven here"


def _facts(plan: Plan) -> Iterable[tuple[str, str]]:
    yield "machine", plain(f"{plan.machine}; {proof_of(plan)}")
    yield "device", describe(plan.device)
    if plan.device.problem:
        yield "problem", plain(plan.device.problem)
    seen: dict[str, list[Device]] = {}
    for other in plan.devices:
        if other != plan.device:
            what = plain(f"{other.name} ({describe(other)})")
            seen.setdefault(f"{what}\n{other.problem or ''}", []).append(other)
    for number, (key, same) in enumerate(seen.items()):
        what, _, problem = key.partition("\n")
        count = "" if len(same) == 1 else f"{len(same)} x "
        lost = plain(f"; not usable: {problem}") if problem else ""
        yield ("" if number else "also here"), f"{_span(same)}: {count}{what}{lost}"


def _span(devices: Sequence[Device]) -> str:
    """torch's names for devices of one sort: `x:1 to x:7`, or each by itself."""
    if len(devices) == 1:
        return devices[0].torch_name
    indices = sorted(device.index for device in devices)
    kind = devices[0].kind
    if indices == list(range(indices[0], indices[-1] + 1)) and len(set(indices)) == len(indices):
        return f"{kind}:{indices[0]} to {kind}:{indices[-1]}"
    return ", ".join(f"{kind}:{index}" for index in indices)


def _chosen(plan: Plan) -> dict[Feature, str | None]:
    return {
        Feature.ATTENTION: plan.attention,
        Feature.DTYPE: plan.dtype,
        Feature.COLLECTIVE: plan.collective,
    }


def _choices(plan: Plan) -> Iterable[Choice]:
    for feature, name in _chosen(plan).items():
        if name is None:
            yield Choice(feature.value, "none", "no implementation can be had")
        else:
            yield Choice(feature.value, plain(name), _why(plan, feature, name))
    usable = ", ".join(plan.quant)
    why = "usable, best first" if usable else "no quantised weights can be used"
    yield Choice(Feature.QUANT.value, plain(usable) or "none", why)


def _why(plan: Plan, feature: Feature, name: str) -> str:
    """The reason of the decision, what to know about it, and what came before it and was lost."""
    decisions = plan.of(feature)
    own = next((d for d in decisions if d.name == name and d.accepted), None)
    if own is None:
        return "asked for by name"
    parts = [_reason(own)]
    parts += [
        f"{key.replace('_', ' ')}: {', '.join(map(str, value)) if _many(value) else value}"
        for key, value in own.impl.limits.items()
        if value
    ]
    parts += [
        f"not {d.name}: {d.reason}"
        for d in decisions[: decisions.index(own)]
        if not d.accepted and d.impl.priority > own.impl.priority
    ]
    return plain("; ".join(parts))


def _many(value: object) -> bool:
    return isinstance(value, (list, tuple, set, frozenset))


def _reason(decision: Decision) -> str:
    note = decision.impl.note
    if decision.accepted and note and note not in decision.reason:
        return f"{decision.reason}; {note}"
    return decision.reason


def _row(decision: Decision, plan: Plan, sources: dict[str, int]) -> Row:
    source = plain(decision.impl.source)
    if source:
        sources.setdefault(source, len(sources) + 1)
    chosen = decision.accepted and _chosen(plan).get(decision.feature) == decision.name
    return Row(
        name=plain(decision.name),
        chosen=chosen,
        accepted=decision.accepted,
        stage=decision.stage.value,
        reason=plain(_reason(decision)),
        source=sources.get(source, 0),
    )


def _changes(plan: Plan, entries: Sequence[EntryLike]) -> Iterable[Change]:
    if entries:
        for entry in entries:
            also = f"also bound as {', '.join(entry.also)}" if entry.also else ""
            detail = "; ".join(part for part in (entry.detail, also) if part)
            yield _change(entry.patch, entry.state, detail)
        return
    for patch in plan.patches:
        yield _change(patch, "planned", "")


def _change(patch: Patch, state: str, detail: str) -> Change:
    return Change(
        state=state,
        target=plain(patch.target),
        why=plain(patch.reason),
        detail=plain(detail),
        upstream=plain(patch.upstream),
        until=plain(patch.until),
    )


def _failures(plan: Plan) -> Iterable[tuple[str, str]]:
    for info in plan.plugins:
        if info.status != "loaded":
            origin = plain(f"{info.name} (from {info.distribution} {info.version})")
            yield origin, plain(f"{info.status}: {info.problem}")


def _notes(plan: Plan, notes: Sequence[Note]) -> tuple[Note, ...]:
    """Loudest first; what the list of failed plugins says is not said twice."""
    said = {(f"plugin {i.name}", i.problem) for i in plan.plugins if i.status != "loaded"}
    kept = [note for note in notes if (note.subject, note.message) not in said]
    cleaned = [
        dataclasses.replace(
            note,
            subject=plain(note.subject),
            message=plain(note.message),
            remedy=plain(note.remedy),
            origin=plain(note.origin),
        )
        for note in kept
    ]
    return tuple(sorted(cleaned, key=lambda note: _LEVELS.index(note.level)))
