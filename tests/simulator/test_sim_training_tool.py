"""tools/simulated_training.py: what it watches, and what it calls wrong."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("accel_frameworks")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = ROOT / "tools/simulated_training.py"
    spec = importlib.util.spec_from_file_location("simulated_training", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(tool: ModuleType, **changed: object) -> object:
    places = {
        "parameters": {"npu:0 bfloat16": 9, "npu:0 float32": 1},
        "state": {"npu:0 float32": 2},
    }
    good = tool.Run([2.0, 1.5], "npu:0 · sdpa · bfloat16 · hccl · 9 repairs", places, 1.0)
    return dataclasses.replace(good, **changed)


def test_a_card_that_does_what_the_host_does_is_right(tool: ModuleType) -> None:
    row = tool.judged("ascend-910b2", run(tool), run(tool))
    assert (row["wrong"], row["apart"]) == ([], [0.0, 0.0])
    assert tool.weights(row["watched"]) == "bfloat16"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"said": "npu:0 · sdpa · float32 · hccl · 9 repairs"}, "the report says"),
        ({"watched": {"state": {"cpu float32": 2}}}, "state are on cpu float32"),
        ({"watched": {"gradients": {}}}, "gradients are on no device"),
        ({"losses": [2.0, 1.4]}, "losses differ by 6.7e-02"),
        ({"failed": "it ended with 1"}, "it ended with 1"),
    ],
)
def test_whatever_is_not_as_on_the_host_is_wrong(tool, changed, said) -> None:
    row = tool.judged("ascend-910b2", run(tool, **changed), run(tool))
    assert len(row["wrong"]) == 1
    assert said in row["wrong"][0]


def test_the_first_step_of_any_optimizer_is_watched(tool: ModuleType, tmp_path: Path) -> None:
    code = """
import torch
model = torch.nn.Linear(4, 2).requires_grad_(False)
part = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
optimizer = torch.optim.AdamW([part])
for step in range(2):
    part.sum().backward()
    optimizer.step()
    model.double()
"""
    environment = {**tool.watched_environment(tmp_path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
    assert json.loads((tmp_path / "watched.json").read_text(encoding="utf-8")) == {
        "parameters": {"cpu float32": 10, "cpu float64": 3},
        "trained": {"cpu float64": 3},
        "state": {"cpu float64": 6},
        "gradients": {"cpu float64": 3},
    }
