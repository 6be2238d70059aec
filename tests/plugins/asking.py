"""What tests of device plugins ask: devices, decisions, whether a facts file holds good."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import pluggy

from accel import hookspecs
from accel.facts import Facts, load_facts
from accel.machine import Machine
from accel.recording import RecordedMachine, parse
from accel.resolving import Capabilities
from accel.values import Device, Feature, Impl


def devices(plugin: str, machine: Machine) -> list[Device]:
    """What one plugin finds, called as accel calls it."""
    return [
        device
        for answer in _manager(plugin).hook.accel_detect(machine=machine)
        for device in answer
    ]


def impls(plugin: str, device: Device, machine: Machine) -> list[Impl]:
    answers = _manager(plugin).hook.accel_capabilities(device=device, machine=machine)
    return [impl for answer in answers for impl in answer]


def capabilities(plugin: str, machine: Machine) -> Capabilities:
    """Decisions for the plugin's first device; nothing is probed."""
    device = devices(plugin, machine)[0]
    return Capabilities(device, impls(plugin, device, machine), machine)


def best(found: Capabilities, feature: Feature) -> str | None:
    decision = found.best(feature)
    return decision.name if decision else None


def refused(found: Capabilities, feature: Feature, name: str) -> str:
    """Why an implementation was refused; fails where it was not, or was never declared."""
    decision = found.find(feature, name)
    assert decision is not None, f"{feature.value} {name} is not declared"
    assert not decision.accepted, f"{feature.value} {name} was accepted"
    return decision.reason


def fake(**parts: Any) -> RecordedMachine:
    """A machine of a few answers, as a recording would have them."""
    document = {
        "schema": "accel-machine/1",
        "platform": {"system": "Linux", "arch": "x86_64", "python": "3.12.3"},
        "memory": {"total": 64 * 2**30, "available": 32 * 2**30},
        **parts,
    }
    return parse(document, "fake")


def changed(machine: RecordedMachine, **parts: Any) -> RecordedMachine:
    """The same machine with some parts of its recording replaced."""
    return parse({**dict(machine._document), **parts}, machine.name)


def card(vendor: str, device: str, **other: Any) -> Mapping[str, Any]:
    standing = {"address": "0000:01:00.0", "class_id": "030000", "driver": None}
    return {**standing, "vendor": vendor, "device": device, **other}


def check_facts(plugin: str) -> Facts:
    """Every implementation has a source, and a reason or a probe that can be called as declared."""
    facts = load_facts(plugin)
    declared = [impl for arch in facts.archs.values() for impl in arch.impls]
    assert declared
    for impl in declared:
        assert impl.source, f"{impl.feature.value} {impl.name} has no source"
        if impl.unavailable is None:
            assert impl.probe is not None, f"{impl.name} cannot be proven"
            module, _, name = impl.probe.function.partition(":")
            function = getattr(importlib.import_module(module), name)
            inspect.signature(function).bind("cpu", **impl.probe.arguments)
    for row in _rows(facts.extra):
        assert row["source"] in facts.sources, row
    return facts


def _rows(value: Any) -> list[Mapping[str, Any]]:
    """Every table, at any depth, that names a source."""
    if isinstance(value, Mapping):
        own = [value] if "source" in value else []
        return own + [row for item in value.values() for row in _rows(item)]
    return (
        [row for item in value for row in _rows(item)] if isinstance(value, (list, tuple)) else []
    )


def imports_no_torch(plugin: str, machine: str) -> None:
    """Detecting on a recorded machine and listing what it can do leaves torch unimported."""
    program = f"""
        import importlib, sys
        from accel.testing import machine
        plugin = importlib.import_module({plugin!r})
        here = machine({machine!r})
        found = list(plugin.accel_detect(machine=here))
        assert found
        takes = plugin.accel_capabilities.__code__.co_varnames[:2]
        given = {{"device": found[0], "machine": here}}
        list(plugin.accel_capabilities(**{{key: given[key] for key in takes if key in given}}))
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)


def _manager(plugin: str) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(importlib.import_module(plugin))
    manager.check_pending()
    return manager
