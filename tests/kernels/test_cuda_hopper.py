"""Hopper's kernel without a GPU: its code for every way of cutting, and how work is shared."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel_kernels.cuda_provider import compiling, hopper, nvrtc
from accel_kernels.cuda_provider.hopper import Tiling
from accel_kernels.providers import Shape
from test_cuda_compile import LIMITS, judge

needs_nvrtc = pytest.mark.skipif(
    not list(nvrtc.candidates()), reason="no NVRTC here: pip install nvidia-cuda-nvrtc"
)
TILINGS = [
    *(Tiling(rows, height) for rows in (16, 32, 64, 128) for height in (1, 2)),
    Tiling(256, 1),
    Tiling(128, 2, cluster=2),
]
MOST_SHARED, OF_MULTIPROCESSOR, _ = LIMITS["sm_90"]
BLOCK_OVERHEAD = 1024


def check(cut: Tiling, group: int, dtype: torch.dtype, scales: torch.dtype, backward: bool) -> None:
    shape = Shape(4, group, 4096, 4096)
    program, shared = hopper.program_of(cut, shape, dtype, scales, MOST_SHARED, backward=backward)
    log = judge(program, "sm_90a")
    static = max(int(size) for size in re.findall(r"(\d+) bytes smem", log))
    assert dict(program.constants)["STAGES"] >= 3
    assert shared + static <= MOST_SHARED
    assert "C7510" not in log, "the compiler waits after every product"


@needs_nvrtc
@pytest.mark.parametrize("cut", TILINGS, ids=str)
@pytest.mark.parametrize("backward", [False, True])
def test_every_cut_compiles_for_what_is_common(cut: Tiling, backward: bool) -> None:
    check(cut, 128, torch.bfloat16, torch.float16, backward)


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("cut", TILINGS, ids=str)
def test_every_format(cut: Tiling) -> None:
    forms = [(torch.float16, torch.float16)]
    forms += [(torch.bfloat16, kind) for kind in (torch.float16, torch.bfloat16, torch.float32)]
    for (dtype, scales), group, backward in itertools.product(
        forms, (32, 96, 128, 4096), (False, True)
    ):
        check(cut, group, dtype, scales, backward)


@needs_nvrtc
def test_the_instructions_that_were_meant() -> None:
    program, _ = hopper.program_of(
        Tiling(256, 1, cluster=2), Shape(4, 128, 4096, 4096), torch.bfloat16, torch.float16,
        MOST_SHARED, backward=False,
    )  # fmt: skip
    code = compiling.compile_for(program, "compute_90a")[0]
    assert b"wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16" in code
    assert b"cp.async.bulk.tensor.2d" in code
    assert b"multicast::cluster" in code


@given(st.integers(1, 5000), st.integers(1, 600), st.sampled_from([1, 7, 66, 132]))
def test_clusters_have_work_and_fit(tiles: int, depth: int, most: int) -> None:
    clusters = hopper.clusters_for(tiles, depth, most)
    assert 1 <= clusters <= min(most, tiles * depth)
    assert clusters >= hopper.EVEN_ENOUGH * min(most, tiles * depth)


@given(st.integers(1, 20000), st.integers(1, 1200))
def test_a_cut_is_chosen_for_every_size(rows: int, pieces: int) -> None:
    cut = hopper.tiling(rows, pieces)
    assert any(cut == known for known in TILINGS)
    assert cut.rows >= min(rows, 128)


def test_elsewhere_it_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    x, scales = torch.zeros(100, 64, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.float16)
    shape = Shape(4, 64, 64, 64)
    monkeypatch.setattr(hopper, "_capability", lambda device: (9, 0))
    assert hopper.serves(x, scales, shape)
    assert not hopper.serves(x[:3], scales, shape)
    assert not hopper.serves(x.float(), scales, shape)
    assert not hopper.serves(x.half(), scales.float(), shape)
    assert not hopper.serves(x, scales, Shape(8, 64, 64, 64))
    assert not hopper.serves(x, scales, Shape(4, 64, 64, 66))
    monkeypatch.setattr(hopper, "_capability", lambda device: (10, 0))
    assert not hopper.serves(x, scales, shape)
