"""Scripts that are not ours, asked for bf16 on a CPU: transformers' example, and TRL's SFT.

The example is in no distribution on the package index; `clm.py` does what it does. RUN_CLM names
a copy of `examples/pytorch/language-modeling/run_clm.py` to run that very file (it needs the
package `evaluate`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from failure import HERE
from fw_support import needs
from test_failures import ALL, SECONDS, surroundings

pytestmark = pytest.mark.slow
REFUSAL = "Your setup doesn't support bf16/gpu"
TEXT = "who are you i am an assistant what is the sun the sun is red"
Start = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def start(tmp_path: Path, tiny_model: Path) -> Start:
    """Start one of the two, under `accel run` or as a user without it would."""
    (tmp_path / "text.txt").write_text("\n".join([TEXT] * 40), encoding="utf-8")
    (tmp_path / "rows").mkdir()
    rows = [json.dumps({"text": TEXT}) for _ in range(16)]
    (tmp_path / "rows" / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    steps = ["--max_steps", "2", "--report_to", "none", "--output_dir", "out"]
    model = ["--model_name_or_path", str(tiny_model)]
    own = os.environ.get("RUN_CLM")
    example = [own, "--do_train", "--block_size", "32"] if own else [str(HERE / "clm.py")]
    clm = [*example, *model, "--train_file", "text.txt", "--bf16", *steps]
    sft = ["-m", "trl.scripts.sft", *model, "--dataset_name", "rows", *steps]

    def run(which: str, *, repaired: bool) -> subprocess.CompletedProcess[str]:
        words = {"clm": clm, "sft": sft}[which]
        front = ["-m", "accel", "run"] if repaired else []
        return subprocess.run(
            [sys.executable, *front, *words],
            cwd=tmp_path,
            env=surroundings("test", tmp_path, by_hand=not repaired),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    return run


@needs("transformers", "datasets")
def test_run_clm_in_bf16(start: Start, tmp_path: Path) -> None:
    ended = start("clm", repaired=True)
    assert ended.returncode == 0, ended.stderr
    assert ("train_loss" if "RUN_CLM" in os.environ else "PERPLEXITY") in ended.stdout
    if ALL:
        assert REFUSAL in start("clm", repaired=False).stderr


@needs("trl")
def test_trl_s_sft_with_its_own_defaults(start: Start, tmp_path: Path) -> None:
    ended = start("sft", repaired=True)
    assert ended.returncode == 0, ended.stderr
    assert "Training completed" in ended.stdout
    assert (tmp_path / "out" / "model.safetensors").is_file()
    if ALL:
        assert REFUSAL in start("sft", repaired=False).stderr
