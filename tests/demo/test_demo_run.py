"""`accel demo` from an empty folder, with two steps of training."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from accel_frameworks.demo import fetching
from accel_frameworks.demo.common import DemoError, Voice

pytestmark = pytest.mark.slow


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """What the demo downloads, or a skip that says why it cannot be had."""
    for module in ("llamafactory", "gguf", "hatchling"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: the demo extra brings it")
    folder = tmp_path / "cache"
    folder.mkdir()
    try:
        fetching.fetch_gguf(folder, Voice())
        fetching.fetch_examples(folder, Voice())
    except DemoError as error:
        pytest.skip(f"what the demo needs cannot be downloaded here: {error}")
    return folder


@pytest.mark.timeout(600)
def test_two_steps(cache: Path, tmp_path: Path) -> None:
    output = tmp_path / "out put"  # a space, as in many home folders
    command = [sys.executable, "-m", "accel", "demo", "--steps", "2", "--json"]
    done = subprocess.run(
        [*command, "--cache", str(cache), "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "ACCEL_CACHE_DIR": str(tmp_path / "probes")},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["losses"]) == 2
    assert result["learnt"] is None
    assert result["before"]
    assert result["after"]
    assert result["report"]["device"]["name"] == result["device"]
    for step in range(1, 6):
        assert f"{step}/5 " in done.stderr
    for name in ("page", "curve", "adapter", "job", "log"):
        assert Path(result["files"][name]).exists()
    assert (output / "adapter/adapter_model.safetensors").stat().st_size > 1_000_000
    assert "{{name}}" not in (output / "data/identity.json").read_text(encoding="utf-8")
    kept = sorted(item.name for item in cache.iterdir())
    assert kept == ["SmolLM2-135M-Instruct", fetching.EXAMPLES.replace("==", "-")]
