"""accel's own rules: those that are about no vendor and no library but torch.

A rule is a function of a Patient that yields Findings. One that needs this very machine (it starts
a child process) is marked `@here` and left out for a recorded one.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from accel.caching import DiskCache, default_folder
from accel.doctor.children import Child
from accel.errors import AccelError
from accel.loading import OWN_DISTRIBUTION, Plugins
from accel.machine import Machine, canonical
from accel.troubles import Finding, Trouble, has_troubles, load_troubles
from accel.value import Value
from accel.values import Device

OWN = "accel.doctor"
AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
_COMPILED = (".so", ".pyd", ".dylib")


class Patient(Value, kw_only=False):
    """What rules may look at. `run` runs Python source in a child, with further variables.

    `explained` is what the plugins' rules have found, so that nothing is said twice.
    """

    machine: Machine
    plugins: Plugins
    devices: tuple[Device, ...]
    run: Callable[[str, Mapping[str, str]], Child]
    explained: tuple[Finding, ...] = ()

    @functools.cached_property
    def torch_import(self) -> Child:
        """Whether torch can be imported, tried once; only for `@here` rules."""
        return self.run("import torch", {})

    @functools.cached_property
    def importing(self) -> Mapping[str, str] | None:
        """Variables with which torch can be imported; None where it cannot be at all."""
        if self.torch_import.ok:
            return {}
        alone = {AUTOLOAD: "0"}
        return alone if self.run("import torch", alone).ok else None


Rule = Callable[[Patient], Iterable[Finding]]


def here(rule: Rule) -> Rule:
    """Mark a rule that means something on this machine only."""
    rule.__dict__["here"] = True
    return rule


def trouble(id: str) -> Trouble:  # noqa: A002
    """One of accel's own."""
    return load_troubles(OWN)[id]


def torch_missing(patient: Patient) -> Iterable[Finding]:
    """torch is not installed."""
    if patient.machine.version("torch") is None:
        remedies = [d.remedy for d in patient.devices if d.remedy and "torch" in d.remedy]
        command = remedies[0] if remedies else "pip install torch"
        yield trouble("torch-missing").found("torch", "is not installed", command)


@here
def torch_import(patient: Patient) -> Iterable[Finding]:
    """torch is installed and cannot be imported."""
    version = patient.machine.version("torch")
    if version is None or patient.torch_import.ok:
        return
    if patient.importing is None:
        yield trouble("torch-broken").found(
            "import torch",
            f"fails: {patient.torch_import.last}",
            f"pip install --force-reinstall torch=={version.partition('+')[0]}",
        )
        return
    brought = _backend_distributions()
    explained = {finding.subject.partition(" ")[0]: finding for finding in patient.explained}
    if len(brought) == 1:
        known = explained.get(brought[0])
        command = known.command if known else f"pip uninstall -y {brought[0]}"
    else:
        command = f"export {AUTOLOAD}=0"
    names = ", ".join(brought) or "a distribution that pip does not know"
    yield trouble("torch-backend-broken").found(
        "import torch",
        f"fails: {patient.torch_import.last.rstrip('.')}. It works with {AUTOLOAD}=0, so a backend "
        f"that loads with torch is at fault; there is one in: {names}",
        command,
    )


def _backend_distributions() -> list[str]:
    """Strangers' distributions with an entry point that torch loads when it is imported."""
    entries = importlib.metadata.entry_points(group="torch.backends")
    names = {canonical(entry.dist.name) for entry in entries if entry.dist is not None}
    return sorted(names - {OWN_DISTRIBUTION})


def devices(patient: Patient) -> Iterable[Finding]:
    """Devices that are there and that torch cannot use, as their plugins see it."""
    if not patient.devices:
        yield trouble("no-device").found(
            "devices", "none was found, not even the host processor", "accel plugins"
        )
    counted: dict[tuple[str, str, str, str], int] = {}
    for device in patient.devices:
        if device.problem is not None:
            remedy = device.remedy or f"accel explain{patient.machine.option}"
            key = (device.name, device.problem, remedy, device.owner)
            counted[key] = counted.get(key, 0) + 1
    for (name, problem, remedy, owner), count in counted.items():
        known = _known(patient, owner, problem)
        yield known.found(name if count == 1 else f"{count} x {name}", problem, remedy)


def _known(patient: Patient, owner: str, problem: str) -> Trouble:
    """The trouble that the device's plugin calls this problem, else accel's own word for it."""
    info = patient.plugins.info(owner) if owner else None
    package = info.value.partition(":")[0].partition(".")[0] if info else ""
    if package and has_troubles(package):
        for one in load_troubles(package).values():
            if any(part in problem for part in one.problem):
                return one
    return trouble("device-unusable")


def plugins(patient: Patient) -> Iterable[Finding]:
    """Plugins that could not be loaded, or failed when they were asked."""
    for note in patient.plugins.failures:
        yield trouble("plugin-broken").found(
            f"{note.subject} (from {note.origin})", note.message, note.remedy
        )


@here
def companions(patient: Patient) -> Iterable[Finding]:
    """Libraries built for another torch than this one."""
    version = patient.machine.version("torch")
    if version is None or patient.importing is None:
        return
    passed_over = {finding.subject.partition(" ")[0] for finding in patient.explained}
    if patient.machine.env(AUTOLOAD) == "0" or patient.importing:
        passed_over.update(_backend_distributions())  # nobody imports them any more
    for name, module in _companions().items():
        if name in passed_over:
            continue
        # a bridge may only be imported by torch, in the middle of whose import it would find itself
        child = patient.run(f"import torch, {module}", patient.importing)
        if not child.ok:
            yield trouble("companion-broken").found(
                f"import {module}",
                f"fails beside torch {version}: {child.last}",
                f"pip uninstall -y {name}",
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
        yield trouble("cache-unusable").found("cache folder", note.message, note.remedy)


def _folder(machine: Machine) -> Path:
    return default_folder(machine.env)


RULES: tuple[Rule, ...] = (torch_missing, torch_import, devices, plugins, companions, cache)
"""accel's own rules, in the order in which their findings are shown; the plugins' come after."""


def failed(name: str, error: Exception) -> Finding:
    """A rule's own failure, which must not hide what the others find."""
    text = error.wanted if isinstance(error, AccelError) else str(error)
    return trouble("rule-broken").found(
        f"the rule {name}", f"failed: {type(error).__name__}: {text}", "accel --debug doctor"
    )
