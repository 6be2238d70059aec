"""transformers' own test utilities run with the file that accel writes for them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("transformers")


def run(folder: Path, *command: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "ACCEL_CACHE_DIR": str(folder / "cache"), **env},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


USES = """
    import torch
    from transformers.testing_utils import (
        BACKEND_MANUAL_SEED, backend_device_count, backend_empty_cache, backend_manual_seed,
        require_torch_multi_accelerator, torch_device,
    )

    def test_the_device():
        import spec
        assert torch_device == spec.DEVICE_NAME == "cpu"
        assert BACKEND_MANUAL_SEED["cpu"] is spec.MANUAL_SEED_FN
        assert backend_device_count(torch_device) == 0
        backend_empty_cache(torch_device)

    def test_a_small_model_the_same_from_the_same_seed():
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                             num_attention_heads=2, num_key_value_heads=2, vocab_size=64)
        losses = []
        for _ in range(2):
            backend_manual_seed(torch_device, 3)
            model = LlamaForCausalLM(config).to(torch_device)
            tokens = torch.randint(0, 64, (2, 8), device=torch_device)
            losses.append(model(input_ids=tokens, labels=tokens).loss.item())
        assert losses[0] == losses[1]

    @require_torch_multi_accelerator
    def test_that_needs_two():
        raise AssertionError("skipped on one device")
"""


def test_transformers_test_utilities_take_the_device_from_it(tmp_path: Path) -> None:
    (tmp_path / "spec.py").write_text(run(tmp_path, "-m", "accel", "device-spec"))
    (tmp_path / "test_uses.py").write_text(textwrap.dedent(USES))
    out = run(
        tmp_path,
        *("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "test_uses.py"),
        TRANSFORMERS_TEST_DEVICE_SPEC="spec.py",
        ACCEL_AUTO="1",  # a torchvision that does not fit torch would stop transformers' models
    )
    assert "2 passed, 1 skipped" in out


def test_a_device_that_is_not_here_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "accel", "device-spec", "--device", "nonesuch"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert "nonesuch" in done.stderr
