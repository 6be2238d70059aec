"""What is wrong with a machine's setup, and the one command that mends each thing.

accel's own rules are in `rules`; plugins' come through the hook `accel_doctor`, guarded like every
other. Their words are data, in `doctor.toml` files (accel/troubles.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accel import pipeline
from accel.contract import checked
from accel.doctor.children import Child, asked_of_python, has_module, import_error, run_python
from accel.doctor.rules import RULES, Patient, Rule, failed, here
from accel.loading import Plugins
from accel.machine import Machine
from accel.troubles import Finding, Trouble, known_troubles
from accel.value import Value, replaced
from accel.values import Device, as_json

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "Child",
    "Diagnosis",
    "Finding",
    "Patient",
    "Rule",
    "asked_of_python",
    "examine",
    "has_module",
    "here",
    "import_error",
    "run_python",
    "troubles",
]

HOOK = "accel_doctor"
SECONDS = 600.0
"""Time of one plugin's rules: they may import libraries in child processes."""


class Diagnosis(Value, kw_only=False):
    """All findings. `unexamined` are rules that a recorded machine cannot be asked."""

    machine: str
    findings: tuple[Finding, ...]
    unexamined: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema `accel-doctor/1`."""
        return {"schema": "accel-doctor/1", "healthy": self.healthy, **as_json(self)}

    def __str__(self) -> str:
        lines = [line for finding in self.findings for line in _lines(finding)]
        if not self.findings:
            lines.append(f"{self.machine}: nothing is wrong")
        if self.unexamined:
            lines.append(f"not examined on a recording: {', '.join(self.unexamined)}")
        return "\n".join(lines)


def _lines(finding: Finding) -> list[str]:
    lines = [f"{finding.severity:<8} {finding.subject}: {finding.evidence}  [{finding.id}]"]
    if finding.symptom:
        lines.append(f"         seen:  {finding.symptom}")
    command = finding.command.replace("{folder}", ".")
    if finding.files:
        command = f"accel doctor --fix  (writes {', '.join(finding.files)}; {command})"
    return [*lines, f"         try:   {command}"]


def examine(machine: Machine, rules: Sequence[Rule] | None = None) -> Diagnosis:
    """Apply `rules` (default: accel's own and the plugins') to a machine.

    A rule that fails is a finding itself, and so is a plugin that fails while it is asked.
    """
    known = pipeline.loaded_plugins()
    devices = pipeline.detect(known, machine)
    found = _of_plugins(known, machine, devices) if rules is None else []
    patient = Patient(machine, known, devices, run_python, tuple(found))
    chosen = RULES if rules is None else tuple(rules)
    asked = [rule for rule in chosen if machine.is_here or not getattr(rule, "here", False)]
    own = [finding for rule in asked for finding in _applied(rule, patient)]
    left = tuple(_name(rule) for rule in chosen if rule not in asked)
    return Diagnosis(machine.name, tuple(dict.fromkeys([*own, *found])), left)


def _of_plugins(known: Plugins, machine: Machine, devices: tuple[Device, ...]) -> list[Finding]:
    answers = known.call(HOOK, seconds=SECONDS, machine=machine, devices=devices)
    return [
        replaced(finding, owner=answer.owner)
        for answer in answers
        for finding in checked(known, answer.owner, HOOK, answer.value, Finding)
    ]


def _applied(rule: Rule, patient: Patient) -> list[Finding]:
    try:
        return list(rule(patient))
    except Exception as error:  # noqa: BLE001 - one broken rule must not hide what the others find
        return [failed(_name(rule), error)]


def _name(rule: Rule) -> str:
    return str(getattr(rule, "__name__", rule))


def troubles() -> dict[str, Mapping[str, Trouble]]:
    """What accel and the installed plugins know, by package and id: for a page on all of it.

    Raises PluginContractError where one id is in two packages.
    """
    values = [info.value for info in pipeline.plugins() if info.status == "loaded"]
    packages = dict.fromkeys(value.partition(":")[0].partition(".")[0] for value in values)
    return known_troubles([__name__, *packages])
