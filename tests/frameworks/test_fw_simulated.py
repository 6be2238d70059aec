"""LLaMA-Factory, unchanged, on cards that are not here: it trains, on the card, in its dtype."""

from __future__ import annotations

import os
import shutil

import pytest

from accel.caching import default_folder
from fw_support import losses, needs

CALLBACK = """
import sys
import torch
import llamafactory.train.sft.trainer as sft

original = sft.CustomSeq2SeqTrainer.compute_loss

def compute_loss(self, model, inputs, *arguments, **options):
    weights = {(p.device.type, p.dtype) for p in model.parameters()}
    print("WEIGHTS", sorted(map(str, weights)), inputs["input_ids"].device, file=sys.stderr)
    return original(self, model, inputs, *arguments, **options)

sft.CustomSeq2SeqTrainer.compute_loss = compute_loss
from llamafactory.cli import main
sys.argv = ["llamafactory-cli", "train", sys.argv[1]]
main()
"""
CASES = {"ascend-910b2": ("npu", "bfloat16", "hccl"), "tesla-p4": ("cuda", "float32", "nccl")}


@pytest.mark.slow
@needs("llamafactory")
@pytest.mark.skipif(not shutil.which("g++"), reason="a C++ compiler builds the simulated device")
@pytest.mark.parametrize("machine", CASES)
def test_a_two_layer_model_trains_on_a_simulated_card(run, training_yaml, tmp_path, machine):
    kind, dtype, collective = CASES[machine]
    # the simulated device is built once a user, not once a test
    cache = {"ACCEL_CACHE_DIR": str(default_folder(os.environ.get)), "DISABLE_VERSION_CHECK": "1"}
    plain = run("-m", "accel", "llamafactory", "train", str(training_yaml()), **cache)
    assert plain.returncode == 0, plain.stderr
    wanted = losses(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "train.py").write_text(CALLBACK, encoding="utf-8")
    command = ("python", "train.py", str(training_yaml()))
    ended = run("-m", "accel", "simulate", machine, "--", *command, **cache, ACCEL_AUTO="1")
    assert ended.returncode == 0, ended.stderr
    assert f"WEIGHTS [\"('{kind}', torch.float32)\"] {kind}:0" in ended.stderr
    assert f"accel: {kind}:0 · sdpa · {dtype} · {collective}" in ended.stderr
    assert losses(tmp_path / "out") == pytest.approx(wanted, rel=1e-5)
