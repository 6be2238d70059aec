"""A machine made of a few answers, and plugins made of a few lines, for tests of the core."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accel.hookspecs import hookimpl
from accel.loading import Candidate, Plugins
from accel.machine import Answer, Cpu, Machine, Memory, Pci, Platform, canonical
from accel.values import Device, Feature, Impl


@dataclasses.dataclass
class FakeMachine(Machine):
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    installed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    name: str = "fake"
    is_here: bool = False

    def env(self, name: str) -> str | None:
        return self.variables.get(name)

    def read(self, path: str) -> str | None:
        return None

    def glob(self, pattern: str) -> tuple[str, ...]:
        return ()

    def pci(self) -> tuple[Pci, ...]:
        return ()

    def cpu(self) -> Cpu:
        return Cpu("fake", frozenset(), 1)

    def memory(self) -> Memory:
        return Memory(1 << 30, 1 << 29)

    def platform(self) -> Platform:
        return Platform("Linux", "x86_64", "3.11.0")

    def version(self, distribution: str) -> str | None:
        return self.installed.get(canonical(distribution))

    def distribution_file(self, distribution: str, path: str) -> str | None:
        return None

    def distributions(self) -> Mapping[str, str]:
        return dict(self.installed)

    def query(self, name: str, ask: Callable[[], Any]) -> Answer:
        return Answer(error="nothing here")

    def command(self, argv: Sequence[str]) -> str | None:
        return None


def device(**changes: Any) -> Device:
    base = {"vendor": "acme", "name": "Acme One", "kind": "acme", "arch": "a1", "priority": 100}
    return Device(**{**base, **changes})


HOST = device(vendor="host", name="Host", kind="cpu", arch="any", priority=0)


def impl(feature: Feature, name: str, **changes: Any) -> Impl:
    return Impl(feature=feature, name=name, **changes)


def plugin(**hooks: Callable[..., Any]) -> types.SimpleNamespace:
    """A plugin object from hooks given without their `accel_` prefix."""
    return types.SimpleNamespace(
        **{f"accel_{name}": hookimpl(function) for name, function in hooks.items()}
    )


def candidate(name: str, load: Any, distribution: str = "", version: str = "1.0") -> Candidate:
    """An entry point that loads `load` (called if callable, else the plugin itself)."""
    loader = load if callable(load) else lambda: load
    return Candidate(name, f"{name}_module", distribution or f"accel-{name}", version, loader)


def host_plugin() -> types.SimpleNamespace:
    """A plugin that finds the host and offers the least that a plan needs."""

    def capabilities(device: Device) -> list[Impl]:
        return [
            impl(Feature.ATTENTION, "sdpa", priority=2),
            impl(Feature.ATTENTION, "eager", priority=1),
            impl(Feature.DTYPE, "float32", priority=2),
            impl(Feature.DTYPE, "bfloat16", unavailable="the host has no such unit"),
            impl(Feature.COLLECTIVE, "gloo", priority=1),
        ]

    return plugin(detect=lambda machine: [HOST], capabilities=capabilities)


def plugins_of(
    *candidates: Candidate, refused: Sequence[str] = (), seconds: float = 5.0
) -> Plugins:
    return Plugins(candidates, refused=refused, seconds=seconds)
