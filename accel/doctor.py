"""What is wrong with a machine's setup, and the one command that mends each thing.

A rule is a function of a Patient that yields Findings; `RULES` are accel's own. A rule that needs
this very machine (it starts a child process) is marked `@here` and left out for a recorded one.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from accel import pipeline
from accel.caching import DiskCache, default_folder
from accel.errors import AccelError
from accel.loading import OWN_DISTRIBUTION, Plugins
from accel.machine import Machine, canonical
from accel.values import Device, as_json

SECONDS = 120.0
"""Time limit of one child: torch from a cold network disk takes a minute."""
AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
_COMPILED = (".so", ".pyd", ".dylib")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong: `evidence` is what was seen, `command` mends it."""

    rule: str
    severity: Literal["error", "warning"]
    subject: str
    evidence: str
    command: str


@dataclasses.dataclass(frozen=True)
class Child:
    """How a child process ended. `last` is the last line it wrote on stderr."""

    ok: bool
    last: str


@dataclasses.dataclass(frozen=True)
class Patient:
    """What rules may look at."""

    machine: Machine
    plugins: Plugins
    devices: tuple[Device, ...]
    run: Callable[[str, Mapping[str, str]], Child]
    """Runs Python source in a child with further environment variables; only for `@here` rules."""

    @functools.cached_property
    def torch_import(self) -> Child:
        """Whether torch can be imported, tried once."""
        return self.run("import torch", {})


Rule = Callable[[Patient], Iterable[Finding]]


def here(rule: Rule) -> Rule:
    """Mark a rule that means something on this machine only."""
    rule.__dict__["here"] = True
    return rule


@dataclasses.dataclass(frozen=True)
class Diagnosis:
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
        lines = [
            line
            for finding in self.findings
            for line in (
                f"{finding.severity:<8} {finding.subject}: {finding.evidence}",
                f"         try:   {finding.command}",
            )
        ]
        if not self.findings:
            lines.append(f"{self.machine}: nothing is wrong")
        if self.unexamined:
            lines.append(f"not examined on a recording: {', '.join(self.unexamined)}")
        return "\n".join(lines)


def examine(machine: Machine, rules: Sequence[Rule] | None = None) -> Diagnosis:
    """Apply `rules` (default: accel's own) to a machine. A rule that fails is a finding itself."""
    known = pipeline.loaded_plugins()
    patient = Patient(machine, known, pipeline.detect(known, machine), run_python)
    chosen = RULES if rules is None else tuple(rules)
    asked = [rule for rule in chosen if machine.is_here or not getattr(rule, "here", False)]
    findings = tuple(dict.fromkeys(found for rule in asked for found in _applied(rule, patient)))
    left = tuple(_name(rule) for rule in chosen if rule not in asked)
    return Diagnosis(machine.name, findings, left)


def _applied(rule: Rule, patient: Patient) -> list[Finding]:
    try:
        return list(rule(patient))
    except Exception as error:  # noqa: BLE001 - one broken rule must not hide what the others find
        text = error.wanted if isinstance(error, AccelError) else str(error)
        return [
            Finding(
                rule=_name(rule),
                severity="error",
                subject=f"the rule {_name(rule)}",
                evidence=f"failed: {type(error).__name__}: {text}",
                command="accel --debug doctor",
            )
        ]


def _name(rule: Rule) -> str:
    return str(getattr(rule, "__name__", rule))


def run_python(source: str, environment: Mapping[str, str]) -> Child:
    """Run Python source in a child of this interpreter, without accel's own patches, in time."""
    env = {key: value for key, value in os.environ.items() if key != "ACCEL_AUTO"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", source],
            env={**env, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Child(False, f"did not end within {SECONDS:.0f} s")
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode < 0:
        return Child(False, f"killed by signal {-done.returncode}")
    return Child(done.returncode == 0, lines[-1].strip() if lines else "")


# Rules ----------------------------------------------------------------------------------------


def torch_missing(patient: Patient) -> Iterable[Finding]:
    """torch is not installed."""
    if patient.machine.version("torch") is None:
        yield Finding(
            rule="torch_missing",
            severity="error",
            subject="torch",
            evidence="is not installed",
            command=_torch_remedy(patient),
        )


def _torch_remedy(patient: Patient) -> str:
    """What the best device's own plugin says; else the plain command."""
    remedies = [each.remedy for each in patient.devices if each.remedy and "torch" in each.remedy]
    return remedies[0] if remedies else "pip install torch"


@here
def torch_import(patient: Patient) -> Iterable[Finding]:
    """torch is installed and cannot be imported."""
    version = patient.machine.version("torch")
    if version is None or patient.torch_import.ok:
        return
    without = patient.run("import torch", {AUTOLOAD: "0"})
    if not without.ok:
        yield Finding(
            rule="torch_import",
            severity="error",
            subject="import torch",
            evidence=f"fails: {patient.torch_import.last}",
            command=f"pip install --force-reinstall torch=={version.partition('+')[0]}",
        )
        return
    brought = _backend_distributions()
    names = ", ".join(brought) or "a distribution that pip does not know"
    yield Finding(
        rule="torch_import",
        severity="error",
        subject="import torch",
        evidence=f"fails: {patient.torch_import.last}. It works with {AUTOLOAD}=0, so a backend "
        f"that loads with torch is at fault; there is one in: {names}",
        command=f"pip uninstall -y {brought[0]}" if len(brought) == 1 else f"export {AUTOLOAD}=0",
    )


def _backend_distributions() -> list[str]:
    """Strangers' distributions with an entry point that torch loads when it is imported."""
    entries = importlib.metadata.entry_points(group="torch.backends")
    names = {canonical(entry.dist.name) for entry in entries if entry.dist is not None}
    return sorted(names - {OWN_DISTRIBUTION})


def devices(patient: Patient) -> Iterable[Finding]:
    """Devices that are there and that torch cannot use, as their plugins see it."""
    if not patient.devices:
        yield Finding(
            rule="devices",
            severity="error",
            subject="devices",
            evidence="none was found, not even the host processor",
            command="accel plugins",
        )
    counted: dict[tuple[str, str, str], int] = {}
    for device in patient.devices:
        if device.problem is not None:
            key = (device.name, device.problem, device.remedy or "accel explain")
            counted[key] = counted.get(key, 0) + 1
    for (name, problem, remedy), count in counted.items():
        yield Finding(
            rule="devices",
            severity="error",
            subject=name if count == 1 else f"{count} x {name}",
            evidence=problem,
            command=remedy,
        )


def plugins(patient: Patient) -> Iterable[Finding]:
    """Plugins that could not be loaded, or failed when they were asked."""
    for note in patient.plugins.failures:
        yield Finding(
            rule="plugins",
            severity="error",
            subject=f"{note.subject} (from {note.origin})",
            evidence=note.message,
            command=note.remedy,
        )


@here
def companions(patient: Patient) -> Iterable[Finding]:
    """Libraries built for another torch than this one."""
    version = patient.machine.version("torch")
    if version is None or not patient.torch_import.ok:
        return
    for name, module in _companions().items():
        child = patient.run(f"import {module}", {})
        if not child.ok:
            yield Finding(
                rule="companions",
                severity="warning",
                subject=f"import {module}",
                evidence=f"fails beside torch {version}: {child.last}",
                command=f"pip uninstall -y {name}",
            )


def _companions() -> dict[str, str]:
    """Distributions called torch-something that bring compiled code, and the module it is in.

    They are built against one torch, and few say so in their requirements.
    """
    found: dict[str, str] = {}
    for item in importlib.metadata.distributions():
        name = canonical(item.metadata["Name"] or "")
        if not name.startswith("torch") or name == "torch":
            continue
        compiled = (file for file in item.files or () if file.name.endswith(_COMPILED))
        first = next(compiled, None)
        if first is not None and len(first.parts) > 1 and first.parts[0].isidentifier():
            found.setdefault(name, first.parts[0])
    return dict(sorted(found.items()))


@here
def cache(patient: Patient) -> Iterable[Finding]:
    """The folder where probes' results are kept cannot be used, or others can write there."""
    kept = DiskCache(_folder(patient.machine))
    kept.load("doctor")
    for note in kept.notes:
        yield Finding(
            rule="cache",
            severity="warning",
            subject="cache folder",
            evidence=note.message,
            command=note.remedy,
        )


def _folder(machine: Machine) -> Path:
    return default_folder(machine.env)


RULES: tuple[Rule, ...] = (torch_missing, torch_import, devices, plugins, companions, cache)
"""accel's own rules, in the order in which their findings are shown."""
