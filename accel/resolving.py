"""declared ∩ installed ∩ probed: what can really be had on a device, and why not the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from accel import versions
from accel.errors import CapabilityUnavailable, did_you_mean
from accel.value import replaced
from accel.values import Decision, Device, Feature, Impl, Level, Note, Stage

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Protocol, TypeAlias

    from accel.machine import Machine

    class ProbeOutcome(Protocol):
        """What a prober says of one implementation."""

        @property
        def passed(self) -> bool: ...

        @property
        def detail(self) -> str: ...

    Prober: TypeAlias = Callable[[Sequence[Impl]], Mapping[str, ProbeOutcome]]


def key_of(impl: Impl) -> str:
    """How a prober calls an implementation: `feature:name`."""
    return f"{impl.feature.value}:{impl.name}"


@functools.cache
def _requirement(text: str) -> tuple[str, Callable[[str], bool], bool]:
    """A PEP 508 requirement as (name, does a version meet it, does its marker hold here)."""
    simple = versions.requirement(text)
    if simple is not None:
        return simple[0], lambda version: versions.within(version, simple[1]), True
    from packaging.requirements import Requirement

    parsed = Requirement(text)
    applies = parsed.marker is None or parsed.marker.evaluate()
    return (
        parsed.name,
        lambda version: parsed.specifier.contains(version, prereleases=True),
        applies,
    )


def unmet(impl: Impl, machine: Machine) -> str | None:
    """The first of an implementation's requirements that the machine does not meet, in words."""
    for text in impl.requires:
        version = None
        try:
            name, meets, applies = _requirement(text)
            if not applies:
                continue
            version = machine.version(name)
            if version is None:
                return f"needs {text}, which is not installed{_because(impl)}"
            if not meets(version):
                return f"needs {text}, found {version}{_because(impl)}"
        except ValueError as error:  # packaging's InvalidRequirement, -Specifier and -Version
            found = "" if version is None else f", found {version}"
            return f"needs {text}{found}, which cannot be compared: {' '.join(str(error).split())}"
    return None


def _because(impl: Impl) -> str:
    return f": {impl.because}" if impl.because else ""


def resolve(impl: Impl, machine: Machine) -> Decision:
    """The Decision on `impl` from what is declared and installed; nothing is run."""
    if impl.unavailable is not None:
        return Decision(impl=impl, accepted=False, stage=Stage.DECLARED, reason=impl.unavailable)
    missing = unmet(impl, machine)
    if missing is not None:
        return Decision(impl=impl, accepted=False, stage=Stage.INSTALLED, reason=missing)
    reason = impl.note or ("declared and installed" if impl.requires else "declared")
    return Decision(impl=impl, accepted=True, stage=Stage.INSTALLED, reason=reason)


class Capabilities:
    """What a device can do. Implementations are probed when first needed, and only then.

    `wanted` are the user's own choices by feature; `strict` makes `settle` refuse instead of
    going down. Without a `prober` (a recorded machine, or probing switched off) decisions stay
    at what is declared and installed. `chosen_by_name` is whether the user named the device.
    """

    def __init__(
        self,
        device: Device,
        impls: Iterable[Impl],
        machine: Machine,
        *,
        prober: Prober | None = None,
        wanted: Mapping[Feature, str] | None = None,
        strict: bool = False,
        chosen_by_name: bool = False,
    ) -> None:
        self.device = device
        self.strict = strict
        self.chosen_by_name = chosen_by_name
        self.wanted: Mapping[Feature, str] = dict(wanted or {})
        self._prober = prober
        self._notes: list[Note] = []
        ordered = sorted(
            impls, key=lambda i: (list(Feature).index(i.feature), -i.priority, i.name, i.owner)
        )
        self._decisions = [resolve(impl, machine) for impl in ordered]

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Every decision as known so far, best first within a feature."""
        return tuple(self._decisions)

    @property
    def notes(self) -> tuple[Note, ...]:
        return tuple(self._notes)

    def of(self, feature: Feature) -> tuple[Decision, ...]:
        """The decisions on one feature, best first."""
        return tuple(decision for decision in self._decisions if decision.feature is feature)

    def best(self, feature: Feature) -> Decision | None:
        """The user's choice, or else the accepted implementation with the highest priority."""
        return self.choose([feature])[feature]

    def choose(self, features: Iterable[Feature]) -> dict[Feature, Decision | None]:
        """`best` of several features, probing the candidates of all of them together.

        Each round takes what is left of an implementation out of the question, so there are no
        more rounds than a feature has implementations.
        """
        lists = {feature: self._candidates(feature) for feature in features}
        chosen: dict[Feature, Decision | None] = dict.fromkeys(lists)
        while any(lists.values()):
            firsts = {feature: left.pop(0) for feature, left in lists.items() if left}
            self._prove(list(firsts.values()))
            for feature, decision in firsts.items():
                now = self._now(decision)
                if now.accepted:
                    chosen[feature] = now
                    lists[feature] = []
        return chosen

    def find(self, feature: Feature, name: str) -> Decision | None:
        """The decision on an implementation by name, probed if need be; None if never declared."""
        for decision in [d for d in self.of(feature) if d.name == name]:
            self._prove([decision])
            if self._now(decision).accepted:
                return self._now(decision)
        return next((d for d in self.of(feature) if d.name == name), None)

    def supports(self, feature: Feature, name: str) -> bool:
        """Whether the implementation can be had."""
        found = self.find(feature, name)
        return found is not None and found.accepted

    def require(self, feature: Feature, name: str) -> Decision:
        """The accepted decision, or CapabilityUnavailable with every reason."""
        found = self.find(feature, name)
        if found is not None and found.accepted:
            return found
        raise self._unavailable(feature, name)

    def settle(self, feature: Feature, wanted: str, *, asked_by: str) -> str:
        """What a library that asks for `wanted` shall use.

        `wanted` where it can be had; else, under `strict`, CapabilityUnavailable; else the best
        there is, with a line in the report. What the user chose in `auto()` comes before both.
        """
        own = self.wanted.get(feature)
        if own is not None:
            if own != wanted:
                self.note(
                    self._downgrade(
                        asked_by, wanted, own, f"{own} was asked for in auto()", Level.INFO
                    )
                )
            return own
        found = self.find(feature, wanted)
        if found is not None and found.accepted:
            return wanted
        best = self.best(feature)
        if self.strict or best is None:
            raise self._unavailable(feature, wanted, asked_by)
        reason = (
            found.reason
            if found is not None
            else f"{self.device.name} has no {feature.value} of that name"
        )
        self.note(self._downgrade(asked_by, wanted, best.name, reason, Level.DOWNGRADE))
        return best.name

    def note(self, note: Note) -> None:
        """Add a line to the report, once; warnings and downgrades are logged too."""
        if note in self._notes:
            return
        self._notes.append(note)
        if note.level is not Level.INFO:
            import logging  # costs as much as detection, and most runs have nothing to log

            logging.getLogger("accel").warning("%s: %s", note.subject, note.message)

    def prove_all(self) -> None:
        """Probe every implementation that is still in question."""
        self._prove(self._decisions)

    def _candidates(self, feature: Feature) -> list[Decision]:
        """What `choose` may come to, best first: the user's choice alone, where there is one."""
        own = self.wanted.get(feature)
        if own is not None:
            return [self.require(feature, own)]
        return [decision for decision in self.of(feature) if decision.accepted]

    def _now(self, decision: Decision) -> Decision:
        """The present state of a decision that may have been probed since."""
        return next(d for d in self._decisions if d.impl is decision.impl)

    def _prove(self, decisions: Sequence[Decision]) -> None:
        if self._prober is None:
            return
        due = [
            d
            for d in decisions
            if d.accepted and d.stage is not Stage.PROBED and d.impl.probe is not None
        ]
        while due:
            batch: dict[str, Decision] = {}
            for decision in due:
                batch.setdefault(key_of(decision.impl), decision)
            outcomes = self._prober([d.impl for d in batch.values()])
            for note in getattr(self._prober, "notes", ()):
                self.note(note)
            for key, decision in batch.items():
                self._settle_probe(decision, outcomes[key])
            due = [d for d in due if d not in batch.values()]

    def _settle_probe(self, decision: Decision, outcome: ProbeOutcome) -> None:
        index = next(i for i, d in enumerate(self._decisions) if d.impl is decision.impl)
        self._decisions[index] = replaced(
            decision, accepted=outcome.passed, stage=Stage.PROBED, reason=outcome.detail
        )

    def _downgrade(self, asked_by: str, wanted: str, used: str, reason: str, level: Level) -> Note:
        return Note(
            level=level,
            subject=asked_by,
            message=f"{wanted} was asked for, {used} is used on {self.device.name}: {reason}",
            remedy="" if level is Level.INFO else "strict=True makes this an error",
        )

    def _unavailable(
        self, feature: Feature, name: str, asked_by: str = ""
    ) -> CapabilityUnavailable:
        decisions = self.of(feature)
        accepted = [d.name for d in decisions if d.accepted]
        known = [d.name for d in decisions]
        hint = did_you_mean(name, known) if name not in known else ""
        own = [d for d in decisions if d.name == name]
        missing = next((d for d in own if d.stage is Stage.INSTALLED), None)
        remedy = f"{feature.value}={accepted[0]!r}" if accepted else "accel explain"
        if missing is not None and missing.impl.requires:
            remedy = "pip install " + " ".join(f"'{text}'" for text in missing.impl.requires)
        return CapabilityUnavailable(
            f"{feature.value} {name!r}{f' (asked for by {asked_by})' if asked_by else ''} "
            f"cannot be had on {self.device.name} ({self.device.arch}){hint}",
            found=", ".join(accepted) or f"no {feature.value} at all",
            remedy=remedy,
            reasons=[
                f"{d.name}: {d.stage.value}: {d.reason}" for d in own or decisions if not d.accepted
            ],
        )
