"""detect -> select -> resolve -> plan -> apply -> report: the way of a call."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from accel.contract import checked
from accel.errors import AccelError, InputError, did_you_mean
from accel.loading import Answer, Plugins
from accel.machine import Machine, ThisMachine
from accel.resting import CollectorAtRest
from accel.value import replaced
from accel.values import Device, Feature, Impl, Level, Note, Patch, PluginInfo

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from accel.patching import Journal
    from accel.planning import Plan
    from accel.report import Report
    from accel.resolving import Capabilities, Prober

CHOICES: Mapping[str, Feature] = {
    "attention": Feature.ATTENTION,
    "dtype": Feature.DTYPE,
    "collective": Feature.COLLECTIVE,
}
_DTYPE_NAMES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}

_lock = threading.RLock()
_plugins: Plugins | None = None
_current: Report | None = None


def _after_fork() -> None:
    """A thread that held the lock is not in the child, and would never let go of it there."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def loaded_plugins() -> Plugins:
    """The plugins of this process, loaded once."""
    global _plugins
    if _plugins is not None:  # a hook within an `auto()` must not wait for the lock which that has
        return _plugins
    with _lock:
        if _plugins is None:
            _plugins = Plugins()
        return _plugins


def _host() -> Machine:
    """This machine, or the one that stands in for it; plugins are asked only if one is to."""
    if not os.environ.get("ACCEL_SIMULATE"):
        return ThisMachine()
    from accel import simulating

    return simulating.host(loaded_plugins())


def plugins() -> tuple[PluginInfo, ...]:
    """Every plugin found, loaded or not, with the distribution it came from."""
    return loaded_plugins().infos


def devices(machine: Machine | str | Path | None = None) -> tuple[Device, ...]:
    """Every device on this machine, or on a recorded one; `machine` as in `plan()`.

    No torch, no device context. Raises InputError for a `machine` that is none.
    """
    return detect(loaded_plugins(), open_machine(machine))


def plan(
    device: str | None = None,
    *,
    machine: Machine | str | Path | None = None,
    strict: bool = False,
    probe: bool | None = None,
    **wanted: Any,
) -> Plan:
    """What `auto()` would decide here, or on a recorded `machine`; changes nothing.

    `machine` is a Machine, the name of a recorded one, or the path of a record. `probe=False`
    leaves decisions at declared and installed, `probe=True` proves every one of them. `device`,
    `strict` and `wanted` are as in `auto()`, and so are the errors; InputError for a `machine`
    that is none.
    """
    host = open_machine(machine)
    capabilities, found = _resolve(
        loaded_plugins(), host, device, wanted, strict, probe is not False
    )
    if probe:
        capabilities.prove_all()
    return _plan(loaded_plugins(), host, capabilities, found)


def auto(
    device: str | None = None, *, strict: bool = False, apply: bool = True, **wanted: Any
) -> Report:
    """Find the device, choose for it, repair the libraries, and say so in a Report.

    `device` is a torch device (`cpu`), a vendor, family, architecture or plugin name.
    `wanted` are `attention`, `dtype` and `collective` by name: each is had, or
    CapabilityUnavailable says why not. Under `strict` what a library asks for later and the
    device lacks is that error too, instead of a downgrade with a line in the report.
    `apply=False` chooses and reports, and repairs nothing.
    Raises DeviceError where no device of that name is here, or none that torch can use.
    A second call changes nothing and returns the first's Report, until `Report.revert()`; what it
    asked for and the first has not is a warning there.
    """
    global _current
    with _lock, CollectorAtRest():
        if _current is not None and not _current.reverted:
            _tell_unmet(_current, device, wanted)
            return _current
        from accel.patching import Journal
        from accel.report import Report

        known = loaded_plugins()
        host = _host()
        capabilities, found = _resolve(
            known, host, device, wanted, strict or _is_set("ACCEL_STRICT")
        )
        planned = _plan(known, host, capabilities, found)
        journal = Journal()
        if apply:
            _apply(journal, planned)
        report = Report(planned, capabilities, journal)
        _current = report
    before = len(known.failures)
    known.call("accel_report", report=report)
    for failure in known.failures[before:]:  # too late for the plan, and still to be said
        report.capabilities.note(failure)
    return report


def _apply(journal: Journal, planned: Plan) -> None:
    """All of the patches or, where the user interrupts, none: nobody would have the way back."""
    try:
        # a patch is for the library in this process, whatever machine is simulated
        journal.apply(planned.patches, version=ThisMachine().version)
    except BaseException:
        journal.revert()
        raise


def _tell_unmet(report: Report, device: str | None, wanted: Mapping[str, Any]) -> None:
    """A line in the report on what a later `auto()` asked for and does not get."""
    from accel.selecting import names_of

    asked = {name: _choice_name(wanted[name]) for name in CHOICES if wanted.get(name)}
    plan = report.plan
    unmet = [f"{name}={value!r}" for name, value in asked.items() if getattr(plan, name) != value]
    if device is not None and str(device).strip().lower() not in names_of(report.device):
        unmet.insert(0, f"device={str(device)!r}")
    if unmet:
        note = Note(
            level=Level.WARNING,
            subject="accel.auto()",
            message=f"was called again with {', '.join(unmet)}: the first call stands, "
            f"with {report.device.torch_name} ({report.device.name})",
            remedy="accel.current().revert() before the second call",
            origin="accel",
        )
        report.capabilities.note(note)


def current() -> Report:
    """The Report of the `auto()` in force. Raises AccelError where there is none."""
    if _current is None or _current.reverted:
        raise AccelError(
            "accel.auto() is not in force", found="no call in this process", remedy="accel.auto()"
        )
    return _current


def open_machine(spec: Machine | str | Path | None) -> Machine:
    """This machine (or the simulated one), the recorded one of that name, or one in a file."""
    if spec is None:
        return _host()
    if isinstance(spec, Machine):
        return spec
    from accel import recording, testing

    if not isinstance(spec, str) or spec.endswith(".json") or os.sep in spec:
        return recording.load(spec)
    return testing.machine(spec)


def detect(known: Plugins, machine: Machine) -> tuple[Device, ...]:
    """What every plugin found, each device stamped with its owner; one owner a device."""
    claims: dict[tuple[str, str], list[Device]] = {}
    for answer in known.call("accel_detect", machine=machine):
        found = checked(known, answer.owner, "accel_detect", answer.value, Device)
        for device in found:
            if device.owner not in ("", answer.owner):
                known.fail(answer.owner, f"claims a device in the name of {device.owner}")
                continue
            stamped = replaced(device, owner=answer.owner)
            claims.setdefault(identity(stamped), []).append(stamped)
    kept = [_one_owner(known, machine, rivals) for rivals in claims.values()]
    return tuple(sorted(kept, key=lambda d: (-d.priority, d.vendor, d.kind, d.index)))


def identity(device: Device) -> tuple[str, str]:
    """What makes two claims the same piece of hardware."""
    if device.pci_address:
        part = device.attributes.get("mig_instance", "")
        return ("pci", f"{device.pci_address}/{part}")
    return (device.vendor if device.kind != "cpu" else "cpu", device.torch_name)


def _one_owner(known: Plugins, machine: Machine, rivals: list[Device]) -> Device:
    """Of several claims on one device, the one whose plugin can also serve it."""
    if len(rivals) == 1:
        return rivals[0]
    ranked = sorted(rivals, key=lambda d: (not impls_of(known, d, machine), -d.priority, d.owner))
    winner = ranked[0]
    for loser in ranked[1:]:
        if loser.owner != winner.owner:
            known.fail(
                loser.owner,
                f"claims {winner.name} ({winner.torch_name}), which is {winner.owner}'s",
            )
    return winner


def impls_of(known: Plugins, device: Device, machine: Machine) -> list[Impl]:
    """What the device's owner and the plugins that detect nothing declare for it."""

    def asked(name: str) -> bool:
        return name == device.owner or not known.implements(name, "accel_detect")

    answers = known.call("accel_capabilities", only=asked, device=device, machine=machine)
    return [
        replaced(impl, owner=answer.owner)
        for answer in answers
        for impl in checked(known, answer.owner, "accel_capabilities", answer.value, Impl)
    ]


def patches_of(known: Plugins, answers: Iterable[Answer]) -> list[Patch]:
    """The patches in these answers to `accel_patches`, each stamped with its owner."""
    return [
        replaced(patch, owner=answer.owner)
        for answer in answers
        for patch in checked(known, answer.owner, "accel_patches", answer.value, Patch)
    ]


def _resolve(
    known: Plugins,
    machine: Machine,
    device: str | None,
    wanted: Mapping[str, Any],
    strict: bool,
    probe: bool = True,
) -> tuple[Capabilities, tuple[Device, ...]]:
    from accel.resolving import Capabilities
    from accel.selecting import select

    choices = _choices(wanted, machine)
    found = detect(known, machine)
    named = device or machine.env("ACCEL_DEVICE")
    if named and (error := known.error_of(str(named))) is not None:
        raise error
    chosen, notes = select(found, device, machine, lambda usable: _claim(known, machine, usable))
    capabilities = Capabilities(
        chosen,
        impls_of(known, chosen, machine),
        machine,
        prober=_prober(chosen, machine) if probe else None,
        wanted=choices,
        strict=strict,
        chosen_by_name=bool(named),
    )
    for note in notes:
        capabilities.note(note)
    return capabilities, found


def _claim(known: Plugins, machine: Machine, usable: Sequence[Device]) -> Device | None:
    for answer in known.call("accel_select", devices=tuple(usable), machine=machine):
        if answer.value is None:
            continue
        if any(answer.value == device for device in usable):
            assert isinstance(answer.value, Device)
            return answer.value
        known.fail(
            answer.owner, "answered accel_select with a device that is not one of those given"
        )
    return None


def _prober(device: Device, machine: Machine) -> Prober | None:
    if not machine.is_here or machine.env("ACCEL_PROBE") == "0" or machine.env("ACCEL_PROBING"):
        return None
    from accel.probing import Prober as Proving

    return Proving(device, machine, progress=_teller(device))


def _teller(device: Device) -> Callable[[str], None]:
    """Says that probes are run: to whoever listens to the log, else once on stderr."""
    import logging

    logger = logging.getLogger("accel")
    told: list[str] = []

    def tell(line: str) -> None:
        if logger.isEnabledFor(logging.INFO):
            logger.info(line)
        elif not told:
            told.append(line)
            print(f"accel: trying what {device.name} can do; this is remembered", file=sys.stderr)

    return tell


def _plan(
    known: Plugins, machine: Machine, capabilities: Capabilities, found: tuple[Device, ...]
) -> Plan:
    from accel.planning import Plan

    chosen = capabilities.choose(CHOICES.values())
    answers = known.call(
        "accel_patches", device=capabilities.device, capabilities=capabilities, machine=machine
    )
    patches = patches_of(known, answers)
    names = {feature: None if best is None else best.name for feature, best in chosen.items()}
    return Plan(
        machine=machine.name,
        here=machine.is_here,
        simulated=machine.simulated,
        device=capabilities.device,
        devices=found,
        decisions=capabilities.decisions,
        attention=names[Feature.ATTENTION],
        dtype=names[Feature.DTYPE],
        collective=names[Feature.COLLECTIVE],
        quant=tuple(d.name for d in capabilities.of(Feature.QUANT) if d.accepted),
        patches=tuple(patches),
        plugins=known.infos,
        notes=(*known.failures, *capabilities.notes),
    )


def _choices(wanted: Mapping[str, Any], machine: Machine) -> dict[Feature, str]:
    """The user's choices by feature: arguments first, then `ACCEL_ATTENTION` and its like."""
    for name in wanted:
        if name not in CHOICES:
            raise InputError(
                f"{name!r} is nothing that can be chosen{did_you_mean(name, CHOICES)}",
                found=f"{name}={wanted[name]!r}",
                remedy=f"one of: {', '.join(CHOICES)}",
            )
    asked = {name: wanted.get(name) or machine.env(f"ACCEL_{name.upper()}") for name in CHOICES}
    return {CHOICES[name]: _choice_name(value) for name, value in asked.items() if value}


def _choice_name(value: Any) -> str:
    text = str(value).removeprefix("torch.")
    return _DTYPE_NAMES.get(text, text)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")
