"""DeepSpeed really runs: LLaMA-Factory's own configurations, two ranks, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from accel_frameworks.deepspeed import rewritten
from failure import ROOT
from fw_support import losses
from test_failures import ALL, python_of, surroundings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(560),
    pytest.mark.skipif(not ALL, reason="make test-failures"),
]


@pytest.fixture(scope="module")
def examples() -> Path:
    """LLaMA-Factory's examples/deepspeed, of its source distribution."""
    from accel_frameworks.demo.common import Voice
    from accel_frameworks.demo.fetching import fetch_examples

    given = os.environ.get("LLAMAFACTORY_EXAMPLES")
    folder = Path(given) if given else fetch_examples(ROOT / ".demo", Voice()) / "examples"
    return folder / "deepspeed"


def test_every_example_is_settled_at_once(examples: Path) -> None:
    import failure
    from runner import described

    capabilities, _ = described(failure.Having(dtype=("bfloat16", "float32")))
    for path in sorted(examples.glob("*.json")):
        config = json.loads(path.read_text())
        found, changes = rewritten(config, capabilities)
        assert rewritten(found, capabilities)[1] == [], path
        offloads = {"offload_optimizer", "offload_param"} & set(config["zero_optimization"])
        assert {change.path.rpartition(".")[2] for change in changes} == offloads, path


@pytest.mark.parametrize("name", ["ds_z2_config.json", "ds_z3_offload_config.json"])
def test_two_ranks_on_the_processor(
    name: str, examples: Path, training_yaml: Callable[..., Path], tmp_path: Path
) -> None:
    config = examples / name
    before = config.read_bytes()
    job = training_yaml(deepspeed=str(config), bf16=True)
    done = subprocess.run(
        [python_of("deepspeed"), "-m", "accel", "llamafactory", "train", job.name],
        cwd=tmp_path,
        env=surroundings("deepspeed", tmp_path, NPROC_PER_NODE="2"),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert config.read_bytes() == before, "the user's file is untouched"
    assert "FORCE_TORCHRUN=1, because DeepSpeed trains in ranks only" in done.stderr
    # two rows on each of two ranks: DeepSpeed knows of both
    assert "Total train batch size (w. parallel, distributed & accumulation) = 4" in done.stderr
    assert len(losses(tmp_path / "out")) == 3
    assert all(0 < loss < 20 for loss in losses(tmp_path / "out"))
    told = "zero_optimization.offload_param: " in done.stderr
    assert told == ("offload" in name), "the difference is in the report"
