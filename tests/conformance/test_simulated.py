"""The suite on devices that are simulated: ours, and one that a stranger has just begun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accel.creating import new_plugin
from accel.testing.conformance import RULES
from world import accel, failures

ON_DEVICE = ("dtype", "runtime", "collective", "probe.passes")


def on_simulator(
    folder: Path, machine: str, plugin: str, *rules: str
) -> tuple[int, dict[str, Any]]:
    only = [word for rule in rules for word in ("--only", rule)]
    done = accel(folder, "simulate", machine, "--", "accel", "conformance", plugin, "--json", *only)
    assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, document


@pytest.mark.slow
@pytest.mark.parametrize("found_by", ["pci", "bridge"])
def test_a_plugin_that_was_just_begun_passes_on_its_simulated_device(
    found_by: str, tmp_path: Path
) -> None:
    """The package's folder is on the path with an entry point, which is what installing it does."""
    new_plugin("acme", tmp_path, found_by=found_by)  # type: ignore[arg-type]
    info = tmp_path / "accel_acme-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: accel-acme\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[accel]\nacme = accel_acme\n")
    code, document = on_simulator(tmp_path, "acme-one", "acme", *ON_DEVICE)
    assert failures(document) == {}
    assert code == 0
    assert document["how"] == "simulator"
    assert document["device"]["kind"] == "acme"
    passed = {r["rule"] for r in document["results"] if r["status"] == "passed"}
    assert passed >= {r.id for r in RULES if r.needs == "device"}


def test_a_built_in_plugin_keeps_the_runtimes_meaning_on_its_simulated_device(
    tmp_path: Path,
) -> None:
    code, document = on_simulator(tmp_path, "ascend-910b2", "ascend", "runtime")
    assert failures(document) == {}
    assert code == 0
    assert document["device"]["arch"] == "Ascend910B2"
