"""Runs the rules on one plugin, one after the other, and keeps what each of them said."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from accel import pipeline
from accel.errors import InputError, did_you_mean
from accel.guarding import describe
from accel.machine import Machine, ThisMachine
from accel.testing.conformance.context import Context
from accel.testing.conformance.expected import Expected, expected_for, judged
from accel.testing.conformance.results import (
    BAD,
    Conformance,
    Finding,
    How,
    Result,
    today,
    versions,
)
from accel.testing.conformance.rules import BY_ID, RULES, Rule
from accel.testing.conformance.subject import Subject
from accel.values import Device, as_json

NO_DEVICE = Finding(status="skipped", detail="no such device here")
Tell = Callable[[str], None]


class Suite:
    """The rules and one plugin. `device` is torch's name of the device to use, if not the first.

    Raises InputError where no plugin is called `plugin`, or it has no such device here.
    """

    def __init__(self, plugin: str, *, device: str | None = None, tell: Tell | None = None) -> None:
        self.subject = Subject.find(plugin)
        self._wanted = device
        self._tell = tell or (lambda line: None)

    @functools.cached_property
    def _broken(self) -> str:
        """Why the plugin cannot be asked anything, or nothing. In a fresh interpreter first."""
        findings = list(
            BY_ID["load.hooks"].check(Context(self.subject, ThisMachine(), None, "recorded"))
        )
        return next((f.detail for f in findings if f.status == "failed"), "")

    @functools.cached_property
    def context(self) -> Context:
        """Where the rules are asked. The plugin is loaded, if it can be."""
        here = pipeline.open_machine(None)
        device = None if self._broken else self._device(here)
        return Context(self.subject, here, device, _how(here, device), self._tell)

    @functools.cached_property
    def expected(self) -> tuple[Expected, ...]:
        context = self.context
        return expected_for(
            self.subject.name, self.subject.folders, tuple(BY_ID), context.how, context.device
        )

    def check(self, rule: Rule) -> Iterator[Result]:
        """The results of one rule as they come; whatever it raises is a failure of the plugin's."""
        begin = time.monotonic()
        try:
            for finding in self._findings(rule):
                if not finding.seconds:
                    finding = _timed(finding, begin)
                yield judged(rule.id, finding, self.expected)
                begin = time.monotonic()
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001 - a plugin's answer that a rule cannot digest
            finding = Finding(status="failed", detail=f"the check itself {describe(error)}")
            yield judged(rule.id, finding, self.expected)

    def _findings(self, rule: Rule) -> Iterator[Finding]:
        if rule.needs != "nothing" and self._broken:
            yield Finding(status="skipped", detail="the plugin does not load")
        elif rule.needs == "device" and self.context.device is None:
            yield NO_DEVICE
        else:
            yield from rule.check(self.context)

    def outcome(self, results: Sequence[Result], unfinished: Sequence[str] = ()) -> Conformance:
        """These results with what they are about; `unfinished` are the rules still to be done."""
        candidate, context = self.subject.candidate, self.context
        return Conformance(
            plugin=candidate.name,
            distribution=candidate.distribution,
            version=candidate.version,
            how=context.how,
            device=None if context.device is None else _described(context.device),
            versions=self._versions,
            date=today(),
            results=tuple(results),
            declared=self._declared,
            unfinished=tuple(unfinished),
        )

    @functools.cached_property
    def _versions(self) -> dict[str, str]:
        return versions()

    @functools.cached_property
    def _declared(self) -> dict[str, Any]:
        return {} if self._broken else _declared(self.context)

    def _device(self, here: Machine) -> Device | None:
        usable = [device for device in self.subject.devices(here) if device.usable]
        if self._wanted is None:
            return usable[0] if usable else None
        for device in usable:
            if self._wanted in (device.torch_name, device.kind):
                return device
        raise InputError(
            f"plugin {self.subject.name} has no usable device {self._wanted!r} here",
            found=", ".join(device.torch_name for device in usable) or "none",
            remedy="accel devices",
        )


def _timed(finding: Finding, begin: float) -> Finding:
    return Finding(
        case=finding.case,
        status=finding.status,
        detail=finding.detail,
        seconds=time.monotonic() - begin,
    )


def _how(here: Machine, device: Device | None) -> How:
    if device is None:
        return "recorded"
    return "simulator" if here.simulated else "hardware"


def _described(device: Device) -> dict[str, Any]:
    fields = ("vendor", "name", "kind", "arch", "family", "memory", "driver", "toolkit")
    return {field: as_json(getattr(device, field)) for field in fields}


def _declared(context: Context) -> dict[str, Any]:
    """By architecture: whose it is, and what the plugin says of it. `yes`, or the reason why not.

    Keys are `feature:name`, and `patch:target` for what the plugin would mend there.
    """
    subject = context.subject
    found: dict[str, Any] = {}
    for place in context.places:
        device = place.device
        entry = found.setdefault(
            device.arch, {"name": device.name, "kind": device.kind, "says": {}}
        )
        capabilities = subject.capabilities(device, place.machine)
        for decision in capabilities.decisions:
            key = f"{decision.feature.value}:{decision.name}"
            entry["says"][key] = decision.impl.unavailable or "yes"
        for patch in subject.patches(device, place.machine):
            entry["says"][f"patch:{patch.target}"] = "yes"
    return {arch: entry for arch, entry in sorted(found.items()) if entry["says"]}


def chosen(only: Sequence[str]) -> tuple[Rule, ...]:
    """The rules of these ids, or of the groups before the dot; all of them where none is named."""
    for name in only:
        if name not in BY_ID and not any(rule.id.startswith(f"{name}.") for rule in RULES):
            raise InputError(
                f"there is no rule {name!r}{did_you_mean(name, BY_ID)}",
                found=name,
                remedy=f"one of: {', '.join(BY_ID)}",
            )
    return tuple(
        rule for rule in RULES if not only or rule.id in only or rule.id.partition(".")[0] in only
    )


class Course:
    """Rules being asked of one plugin. `outcome` is what they have come to, at any time."""

    def __init__(self, suite: Suite, rules: Sequence[Rule], *, tell: Tell | None = None) -> None:
        self._suite = suite
        self._due = list(rules)
        self._results: list[Result] = []
        self._tell = tell or (lambda line: None)

    def results(
        self, done: Callable[[Rule, Sequence[Result]], None] = lambda rule, results: None
    ) -> Iterator[Result]:
        """Every result as it comes; `done` gets each rule that is through, with all of its own."""
        while self._due:
            rule, found = self._due[0], []
            self._tell(rule.id)
            for result in self._suite.check(rule):
                found.append(result)
                self._results.append(result)
                yield result
            del self._due[0]
            done(rule, found)

    @property
    def outcome(self) -> Conformance:
        """Complete once all results were taken; before that it names what is not done."""
        return self._suite.outcome(self._results, [rule.id for rule in self._due])


def run(
    plugin: str,
    *,
    only: Sequence[str] = (),
    device: str | None = None,
    tell: Tell | None = None,
    done: Callable[[Rule, Sequence[Result]], None] = lambda rule, results: None,
) -> Conformance:
    """Every rule (or `only` these) on an installed plugin.

    `tell` gets a line on what is being done, `done` each rule with its results. Raises InputError
    for names that there are not, and for a malformed `conformance.toml`.
    """
    course = Course(Suite(plugin, device=device, tell=tell), chosen(only), tell=tell)
    for _ in course.results(done):
        pass
    return course.outcome


__all__ = ["BAD", "Course", "Suite", "chosen", "run"]
