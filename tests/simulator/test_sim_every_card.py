"""A model trains on every recorded accelerator: what the README calls *simulated*."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from accel import testing
from accel_simulator.cards import simulatable
from sim_support import HERE, environment, needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow]

KINDS = ("cuda", "npu", "mlu", "musa", "xpu")


def names_of(kind: str) -> list[str]:
    """The machines whose first accelerator is of that torch type."""
    found = {name: simulatable(testing.machine(name)) for name in testing.machines()}
    return [name for name, devices in found.items() if devices and devices[0].kind == kind]


def trained(*names: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(HERE / "every_card.py"), *names],
        env=environment(ACCEL_PROBE="0"),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def on_the_host() -> list[float]:
    (line,) = trained()
    losses = json.loads(line)
    assert losses[-1] < losses[0] - 0.3
    return list(losses)


def test_every_recorded_accelerator_is_of_a_type_that_is_trained_on() -> None:
    machines = map(testing.machine, testing.machines())
    assert {device.kind for each in machines for device in simulatable(each)} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_trains_there_as_on_the_host(kind: str, on_the_host: list[float]) -> None:
    names = names_of(kind)
    rows = [json.loads(line) for line in trained(*names)]
    assert [(row["name"], row["kind"]) for row in rows] == [(name, kind) for name in names]
    for row in rows:
        assert row["exact"] == pytest.approx(on_the_host, rel=1e-4), row["name"]
        assert row["own"] == pytest.approx(on_the_host, rel=1e-2), row["name"]
