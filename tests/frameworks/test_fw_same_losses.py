"""Where there is nothing to repair accel changes nothing: losses and weights, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import same_losses
from fw_support import needs
from sharing import once, shared_folder

pytestmark = [pytest.mark.slow, needs("transformers", "accelerate")]
HERE = Path(__file__).parent
BY_HAND = str(HERE.parent / "failures" / "by_hand")
KINDS = [kind for kind in same_losses.KINDS if kind != "sft" or not needs("trl").args[0]]
WAYS = {"without": {"PYTHONPATH": BY_HAND}, "with": {"ACCEL_AUTO": "1", "ACCEL_DEVICE": "cpu"}}
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port")


def came_to(run: Callable[..., Any], way: str, *command: str) -> dict[str, list[str]]:
    """What the trainings came to; with accel, that it was in force is said."""
    ended = run("-W", "ignore", *command, ACCEL_PROBE="0", **WAYS[way])
    assert ended.returncode == 0, ended.stderr
    assert ("accel: " in ended.stderr) == (way == "with")
    found: dict[str, list[str]] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_one_process(
    kind: str, run: Callable[..., Any], tiny_model: Path, tmp_path_factory: Any
) -> None:
    folder = shared_folder(tmp_path_factory)
    command = (str(HERE / "same_losses.py"), str(tiny_model), *KINDS)
    found = {
        way: once(folder / f"losses-{way}.json", lambda way=way: came_to(run, way, *command))
        for way in WAYS
    }
    assert found["with"][kind] == found["without"][kind]
    assert len(set(found["with"][kind])) > 3, "losses that move, and the weights"


def test_two_ranks(run: Callable[..., Any], tiny_model: Path, free_port: int) -> None:
    script = (str(HERE / "same_losses.py"), str(tiny_model), "accelerate")
    found = [came_to(run, way, *TORCHRUN, str(free_port), *script) for way in WAYS]
    assert found[0] == found[1]
