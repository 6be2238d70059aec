"""SmolLM2-135M-Instruct, rounded: it still knows its capitals, and learns who it is by LoRA.

Whole commands, as users give them: `accel quantize`, then `accel demo`, which asks, trains through
`accel llamafactory train` on identity.json, and asks again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import accel
from accel_frameworks.demo import asking, fetching
from accel_frameworks.demo.common import DemoError, Voice

pytestmark = [
    pytest.mark.slow,
    pytest.mark.sweep,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("default"),
]
STEPS = 10
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo downloads, the model converted; or a skip that says why it cannot be had."""
    for module in ("llamafactory", "gguf", "hatchling"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: the demo extra brings it")
    folder = tmp_path_factory.mktemp("cache")
    try:
        gguf = fetching.fetch_gguf(folder, Voice())
        fetching.fetch_examples(folder, Voice())
    except DemoError as error:
        pytest.skip(f"what the demo needs cannot be downloaded here: {error}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCEL_PROBE", "0")
        report = accel.auto("cpu")  # some environments cannot import transformers without it
        asking.convert(gguf, folder / "plain")
        report.revert()
    return folder


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "accel", *arguments],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("format", ["awq", "gptq"])
def test_it_knows_its_capitals_and_learns_who_it_is(
    format: str,  # noqa: A002
    cache: Path,
    tmp_path: Path,
) -> None:
    made = tmp_path / "rounded"
    rounded = ["--format", format, "--group-size", "64", "--output", str(made), "--json"]
    found = json.loads(run(tmp_path, "quantize", str(cache / "plain"), *rounded))
    assert found["layers"] == 30 * 7
    trained = ["--cache", str(cache), "--output", str(tmp_path / "out"), "--steps", str(STEPS)]
    result = json.loads(
        run(tmp_path, "demo", "--model", str(made), *trained, "--question", QUESTION, "--json")
    )
    print(format, result["before"], result["losses"], result["after"])
    assert "Paris" in result["before"]
    assert len(result["losses"]) == STEPS
    assert result["losses"][-1] < 0.75 * result["losses"][0]
    notes = json.dumps(result["report"])
    assert f"{format} checkpoint" in notes
