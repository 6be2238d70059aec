"""Plugins for the suite to judge, each installed in a folder of its own, as by a stranger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOUND = """
from accel import Device, Feature, Impl, Probe, hookimpl

MAKER = "ace0"
PROBE = Probe(function="accel.probes:matmul", arguments={"dtype": "float32"})


@hookimpl
def accel_detect(machine):
    for index, card in enumerate(machine.pci_of(MAKER)):
        yield Device(vendor="ace", name="Ace One", kind="ace", arch="ace1", index=index,
                     memory=2**34, pci_address=card.address, priority=100)


@hookimpl
def accel_capabilities(device, machine):
    yield Impl(feature=Feature.DTYPE, name="float32", probe=PROBE)
    yield Impl(feature=Feature.DTYPE, name="float16", unavailable="it has no float16 units")
"""
"""A plugin that keeps every rule that can be tested without its card."""

HOST = """
from accel import Device, Feature, Impl, Probe, hookimpl


@hookimpl
def accel_detect(machine):
    if machine.is_here:
        yield Device(vendor="ace", name="Ace on the host", kind="cpu", arch="ace1", memory=2**34)


@hookimpl
def accel_capabilities(device, machine):
    yield Impl(feature=Feature.DTYPE, name="float32",
               probe=Probe(function="accel.probes:matmul", arguments={"dtype": "float32"}))
    yield Impl(feature=Feature.COLLECTIVE, name="gloo", limits={"refuses_dtypes": ["bfloat16"]},
               probe=Probe(function="accel.probes:collective", arguments={"backend": "gloo"}))
"""
"""A plugin whose device is here: the CPU, under another name, so that rules for devices run."""

MACHINE: Mapping[str, Any] = {
    "schema": "accel-machine/1",
    "title": "One Ace One",
    "kind": "composed",
    "sources": {"pci": "a test"},
    "platform": {"system": "Linux", "arch": "x86_64", "python": "3.11.9"},
    "cpu": {"model": "a processor", "flags": ["avx2", "fma"], "count": 8},
    "memory": {"total": 2**36, "available": 2**35},
    "pci": [{"address": "0000:01:00.0", "vendor": "ace0", "device": "0001", "class_id": "120000"}],
    "distributions": {"torch": "2.13.0"},
}


def install(
    folder: Path,
    source: str = SOUND,
    *,
    machine: Mapping[str, Any] | None = MACHINE,
    bridge: str = "",
    expected: str = "",
    more: Mapping[str, str] | None = None,
) -> Path:
    """Write the package `accel_ace`, plugin `ace`, into `folder`.

    `bridge` is code that torch runs at the end of its import, as it runs a vendor's bridge.
    """
    package = folder / "accel_ace"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source, encoding="utf-8")
    for name, text in (more or {}).items():
        (package / name).write_text(textwrap.dedent(text), encoding="utf-8")
    if machine is not None:
        (package / "machines").mkdir()
        (package / "machines" / "ace-one.json").write_text(json.dumps(machine), encoding="utf-8")
    if expected:
        (package / "conformance.toml").write_text(expected, encoding="utf-8")
    points = "[accel]\nace = accel_ace\n"
    if bridge:
        (package / "bridge.py").write_text(
            "def load():\n" + textwrap.indent(textwrap.dedent(bridge), "    "), encoding="utf-8"
        )
        points += "[torch.backends]\nace = accel_ace.bridge:load\n"
    info = folder / "accel_ace-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: accel-ace\nVersion: 1.0\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    return folder


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def accel(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`accel ARGUMENTS` where the plugin of `folder` is installed."""
    return subprocess.run(
        [sys.executable, "-m", "accel", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment(folder),
    )


def conformance(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON of `accel conformance ace ARGUMENTS`."""
    done = accel(folder, "conformance", "ace", "--json", *arguments)
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, document


def failures(document: Mapping[str, Any]) -> dict[str, str]:
    """`rule[case]` of every failure, and its detail."""
    return {
        f"{result['rule']}[{result['case']}]": result["detail"]
        for result in document["results"]
        if result["status"] in ("failed", "unexpected")
    }
