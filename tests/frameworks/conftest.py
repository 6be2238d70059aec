"""Devices, capabilities and a tiny model for the tests of accel_frameworks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from accel.machine import ThisMachine
from accel.resolving import Capabilities
from accel.values import Device, Feature, Impl
from tiny_training import tiny_model, training_yaml

__all__ = ["tiny_model", "training_yaml"]

Capable = Callable[..., Capabilities]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def capable() -> Capable:
    """Capabilities of an invented device: names, best first; `lacking` as `{name: reason}`."""

    def make(
        *,
        kind: str = "cpu",
        dtype: Sequence[str] = ("float32",),
        attention: Sequence[str] = ("sdpa", "eager"),
        lacking: Mapping[tuple[Feature, str], str] | None = None,
        wanted: Mapping[Feature, str] | None = None,
        strict: bool = False,
    ) -> Capabilities:
        device = Device(vendor="nobody", name="Test Card", kind=kind, arch="test_1")
        have = [
            Impl(feature=feature, name=name, priority=100 - order)
            for feature, names in ((Feature.DTYPE, dtype), (Feature.ATTENTION, attention))
            for order, name in enumerate(names)
        ]
        lack = [
            Impl(feature=feature, name=name, unavailable=reason)
            for (feature, name), reason in (lacking or {}).items()
        ]
        return Capabilities(device, [*have, *lack], ThisMachine(), wanted=wanted, strict=strict)

    return make


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run Python in a process of its own, with no accel variable but those given."""

    def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCEL_", "RANK"))}
        environment = {
            **kept,
            "HF_HUB_OFFLINE": "1",
            "WANDB_DISABLED": "true",
            "OMP_NUM_THREADS": "1",
            "ACCEL_CACHE_DIR": str(tmp_path.parent / "probes"),
            **variables,
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    return call


@pytest.fixture
def free_port() -> int:
    """A port of this host that nobody listens at."""
    import socket

    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])
