"""claim.*: the plugin answers for its own hardware, and leaves everyone else's alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from accel import pipeline
from accel.machine import Machine
from accel.testing.conformance.context import Context
from accel.testing.conformance.results import Finding
from accel.testing.conformance.subject import Subject
from accel.values import Device, as_json

HOST = "cpu"
NOTHING = Finding(status="skipped", detail="it implements no accel_detect")


def own(context: Context) -> Iterator[Finding]:
    """On each recorded machine of its package somebody of the package claims a device.

    A machine may be there as a trap, to show what is not to be claimed: one whose cards are all of
    makers that the package claims nothing of.
    """
    subject = context.subject
    if not subject.detects:
        yield NOTHING
        return
    if not subject.own_machines:
        yield Finding(
            status="failed",
            detail=f"no recorded machine in {subject.package}/machines/; "
            f"accel record > {subject.package}/machines/NAME.json on one that has the device",
        )
        return
    mine = 0
    for name, machine in subject.own_machines.items():
        found = subject.devices(machine)
        mine += len(found)
        if found:
            yield Finding(case=name, detail=f"{len(found)} of {found[0].name}")
        elif not pipeline.detect(subject.siblings, machine) and not _is_trap(subject, machine):
            yield Finding(case=name, status="failed", detail="claims nothing on this machine")
    if not mine:
        yield Finding(status="failed", detail="claims nothing on any of its recorded machines")


def _is_trap(subject: Subject, machine: Machine) -> bool:
    makers = {
        _maker(device, other)
        for other in subject.own_machines.values()
        for device in pipeline.detect(subject.siblings, other)
    }
    cards = [card for card in machine.pci() if card.is_display or card.is_accelerator]
    return bool(cards) and all(card.vendor not in makers for card in cards)


def only(context: Context) -> Iterator[Finding]:
    """Nobody else claims what it claims, and what it claims is of a maker it knows from home."""
    subject = context.subject
    if not subject.detects:
        yield NOTHING
        return
    makers = {
        maker
        for machine in subject.own_machines.values()
        for device in subject.devices(machine)
        if (maker := _maker(device, machine))
    }
    for name, machine in subject.machines.items():
        mine = subject.devices(machine)
        theirs = pipeline.detect(subject.rivals, machine)
        at_home = name in subject.own_machines
        problems = [
            problem
            for device in mine
            if (problem := _trespass(device, theirs, machine, makers, at_home))
        ]
        yield Finding(
            case=name,
            status="failed" if problems else "passed",
            detail="; ".join(problems)
            or f"claims {len(mine)} of {len(mine) + len(theirs)} devices",
        )


def _maker(device: Device, machine: Machine) -> str | None:
    """The PCI vendor of a device, if it is a PCI function of that machine."""
    return next((card.vendor for card in machine.pci() if card.address == device.pci_address), None)


def _trespass(
    device: Device, theirs: tuple[Device, ...], machine: Machine, makers: set[str], at_home: bool
) -> str | None:
    """Why this device is not the plugin's to claim, or None."""
    what = f"claims {device.name} ({device.torch_name})"
    for other in theirs:
        if pipeline.identity(other) == pipeline.identity(device):
            return f"{what}, which plugin {other.owner} claims as {other.name}"
    if device.pci_address and machine.pci():
        maker = _maker(device, machine)
        if maker is None:
            return f"{what} at {device.pci_address}, where this machine has no PCI function"
        if maker not in makers:
            return f"{what} of PCI vendor {maker}, which is on none of its own machines"
    elif not at_home and device.kind != HOST:
        return f"{what} on a machine that is not its own, and without a PCI address"
    return None


def values(context: Context) -> Iterator[Finding]:
    """Names, numbers and attributes that a user, torch and JSON can do something with."""
    subject = context.subject
    if not subject.detects:
        yield NOTHING
        return
    for name, machine in subject.machines.items():
        found = subject.devices(machine)
        problems = [f"{d.name or 'a device'}: {problem}" for d in found for problem in _unsound(d)]
        numbers = [(d.kind, d.index) for d in found if d.usable]
        problems += [
            f"two devices are {kind}:{index}"
            for kind, index in sorted(set(numbers))
            if numbers.count((kind, index)) > 1
        ]
        if found:
            yield Finding(
                case=name, status="failed" if problems else "passed", detail="; ".join(problems)
            )


def _unsound(device: Device) -> Iterator[str]:
    for field in ("vendor", "name", "kind", "arch"):
        if not str(getattr(device, field)).strip():
            yield f"{field} is empty"
    if re.fullmatch(r"[\d.]+", device.arch):
        yield f"arch {device.arch!r} is a bare number; use the maker's own word for it"
    if device.index < 0:
        yield f"index {device.index} is negative"
    if device.memory is not None and device.memory < 2**20:
        yield f"memory is {device.memory} bytes: it is counted in bytes"
    try:
        json.dumps(as_json(device), allow_nan=False)
    except (TypeError, ValueError) as error:
        yield f"attributes are not fit for JSON: {error}"
