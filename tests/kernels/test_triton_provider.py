"""The Triton provider without a GPU: layout, refusals, configurations, cache, no early import."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_kernels import providers
from accel_kernels.formats import packing
from accel_kernels.providers import Shape
from accel_kernels.triton_provider import TritonProvider, layout, locks, provider
from accel_kernels.triton_provider.configs import (
    M_CLASSES,
    Problem,
    allowed,
    candidates,
    default,
    m_class,
)
from test_formats import random_weight, same

PROBLEM = Problem("forward", "sm_90", 132, 4, 128, 4096, 4096, 16, "bfloat16")


@settings(deadline=None, max_examples=40)
@given(
    bits=st.sampled_from([2, 4, 8]),
    k=st.integers(1, 300),
    n=st.integers(1, 200),
    group=st.sampled_from([-1, 16, 48, 128]),
    act=st.booleans(),
    scales=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    seed=st.integers(0, 9),
)
def test_packing_loses_nothing(
    bits: int, k: int, n: int, group: int, act: bool, scales: torch.dtype, seed: int
) -> None:
    group = group if group <= k else -1
    weight = random_weight(bits, k, n, group, act_order=act, seed=seed)
    weight = dataclasses.replace(weight, scales=weight.scales.to(scales))
    assert layout.refusal(weight) is None
    assert same(layout.unpack(layout.pack(weight), Shape.of(weight)), weight)


def test_bands_are_packed_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random_weight(4, 96, 500, 32)
    whole = layout.pack(weight)
    monkeypatch.setattr(layout, "BAND", 128)
    assert all(torch.equal(a, b) for a, b in zip(layout.pack(weight), whole, strict=True))
    assert same(layout.unpack(whole, Shape.of(weight)), weight)


def test_a_chunk_is_in_the_order_of_the_matrix_instruction() -> None:
    """Lane l of warp w reads int16 8 (32 w + l) on: its rows and columns of a 16 x 16 operand."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(16), indexing="ij")
    for number in (rows, columns):
        values = number.t().repeat(4, 1).to(torch.uint8)  # [64 inputs, 64 outputs], below 256
        chunk = layout._chunks(values & 15, 4)[0, 0].view(4, 32, 8) & 15
        for warp, lane in ((0, 0), (1, 5), (3, 31)):
            found = chunk[warp, lane].tolist()
            row, column = 16 * warp + lane // 4, 2 * (lane % 4)
            if number is rows:
                expected = [row, row, row + 8, row + 8] * 2
            else:
                expected = [column, column + 1] * 2 + [column + 8, column + 9] * 2
            assert found == [value & 15 for value in expected]


def test_what_it_refuses_it_refuses_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    implementation = TritonProvider()
    weight = random_weight(4, 64, 64, 32)
    cuda = torch.device("cuda")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert implementation.refuses(weight, cuda) == "triton is not installed"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert implementation.refuses(weight, torch.device("cpu")) == "Triton compiles for no CPU"
    assert "'mps'" in str(implementation.refuses(weight, torch.device("mps")))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.version, "hip", None)
    assert "sm_75" in str(implementation.refuses(weight, cuda))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert implementation.refuses(weight, cuda) is None
    assert "3-bit" in str(implementation.refuses(random_weight(3, 64, 64, 32), cuda))
    doubled = dataclasses.replace(weight, scales=weight.scales.double())
    assert "float64" in str(implementation.refuses(doubled, cuda))
    uneven = dataclasses.replace(weight, g_idx=torch.zeros(64, dtype=torch.int32))
    assert "g_idx" in str(implementation.refuses(uneven, cuda))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "ascend" in name else object()
    )
    assert "vendor's fork" in str(provider.device_refusal(_Npu()))


class _Npu:
    type = "npu"


def test_it_is_registered_and_imports_no_triton() -> None:
    assert isinstance(providers.named("triton"), TritonProvider)
    code = "import sys, accel_kernels.triton_provider; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    "arch", ["sm_80", "sm_86", "sm_90", "sm_100", "sm_121", "gfx942", "gfx1100"]
)
@pytest.mark.parametrize(("bits", "group"), [(4, 128), (4, 32), (4, 0), (8, 64), (2, 64), (4, 96)])
def test_every_problem_has_a_configuration_that_it_allows(arch: str, bits: int, group: int) -> None:
    for m in M_CLASSES:
        for product in ("forward", "backward"):
            for sizes in ((576, 192), (3584, 37888), (29568, 8192)):
                problem = Problem(product, arch, 100, bits, group, *sizes, m, "float16")
                config = default(problem)
                assert allowed(problem, config)
                if config.slab:
                    continue
                assert config.splits >= 1
                chunk = layout.chunk_inputs(bits)
                assert config.block_k % chunk == 0
                if config.post:
                    assert group == 0 or group % config.block_k == 0


def test_classes_of_m_and_candidates() -> None:
    assert [m_class(m) for m in (1, 2, 16, 17, 5000, 10**6)] == [1, 8, 16, 32, 8192, 16384]
    tried = list(candidates(PROBLEM))
    assert tried[0] == default(PROBLEM) or default(PROBLEM) in tried
    assert len(set(tried)) == len(tried) > 5
    wide = dataclasses.replace(PROBLEM, dtype="float32")
    assert all(config.slab for config in candidates(wide))


def test_counters_start_at_nothing() -> None:
    found = locks.locks_for(torch.device("cpu"), 12)
    assert found.dtype == torch.int32
    assert found.numel() == 12
    assert not found.any()


def test_padding_of_the_zeros_is_as_the_canonical_layout_has_it() -> None:
    weight = random_weight(4, 32, 12, 16)
    back = layout.unpack(layout.pack(weight), Shape.of(weight))
    assert back.qzeros.shape[1] == packing.words_for(12, 4)


def test_the_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    folder = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         str(folder / "test_triton_interpreted.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=folder.parents[1],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-4000:]
    assert " passed" in result.stdout
