"""kernels/resident.cu, compiled to PTX and run on the CPU, against float64."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

import ptx
from accel_kernels.cuda_provider import compiling, layout, nvrtc, resident
from accel_kernels.cuda_provider.resident import Cut
from accel_kernels.formats import QuantizedWeight
from accel_kernels.providers import Shape
from test_cuda_compile import gpu, judge
from test_cuda_emulated import HOPPER, TOLERANCE, ptx_of
from test_formats import random_weight

pytestmark = pytest.mark.skipif(
    not list(nvrtc.candidates()), reason="no NVRTC here: pip install nvidia-cuda-nvrtc"
)


def emulated(
    weight: QuantizedWeight, x: torch.Tensor, cut: Cut, out: torch.dtype, blocks: int
) -> torch.Tensor:
    """What `resident.multiply` launches, launched here on `blocks` clusters."""
    shape, (words, zeros, scales) = Shape.of(weight), layout.pack(weight)
    rows, k, n = x.shape[0], shape.in_features, shape.out_features
    y = torch.full((rows, n), float("nan"), dtype=out)
    program = resident.program_of(
        cut, shape, scales.dtype, bfloat=x.dtype == torch.bfloat16, float_out=out == torch.float32
    )
    ptx.run(
        ptx_of(program, HOPPER), "resident", (blocks, cut.split, 1), cut.warps * 32,
        cut.shared_bytes(shape, blocks),
        [x, words, scales, zeros, y, rows, n, k, layout.chunks(shape), layout.groups(shape),
         cut.units(shape), blocks],
    )  # fmt: skip
    return y


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("cut", "blocks", "k", "group"),
    [
        (Cut(1, 2, 2, 2, 1), 2, 320, 64),  # a last stage of one chunk, two groups a stage
        (Cut(2, 4, 3, 2, 1), 2, 520, 128),  # a last chunk that is not whole, units that warps share
        (
            Cut(2, 1, 2, 3, 2),
            3,
            384,
            -1,
        ),  # clusters, one group a channel, one stage more for a block
        (Cut(1, 2, 4, 2, 2), 2, 512, 192),  # a unit for more warps than it has stages
        (Cut(1, 1, 1, 2, 1), 4, 64, 64),
    ],
)
def test_products(cut: Cut, blocks: int, k: int, group: int, dtype: torch.dtype) -> None:
    weight = random_weight(4, k, 152, group)
    rows = 8 * cut.rows - 3
    x = torch.randn(rows, k).to(dtype)
    out = torch.float32 if group == 192 else dtype
    y = emulated(weight, x, cut, out, blocks)
    exact = x.double() @ weight.dequantize(torch.float64)
    assert float((y.double() - exact).norm() / exact.norm()) < TOLERANCE[out]


LAYERS = {  # in and out features of layers of 7B, 8B and 72B models
    "7b.qkv": (3584, 4608), "7b.o": (3584, 3584), "7b.gate_up": (3584, 37888),
    "7b.down": (18944, 3584), "8b.o": (4096, 4096), "72b.o": (8192, 8192),
    "72b.down": (29568, 8192), "1b.kv": (2048, 512),
}  # fmt: skip


def test_which_layers_it_serves() -> None:
    """As measured: not where x does not fit, nor few rows of a layer that is read for long."""
    card = dataclasses.replace(gpu("sm_90"), multiprocessors=132)
    served = {
        (name, rows)
        for name, (k, n) in LAYERS.items()
        for rows in (1, 16, 17)
        if resident.choose(Shape(4, 128, k, n), rows, torch.float16, card)
    }
    both = {"7b.qkv", "7b.o", "8b.o", "72b.o"}
    assert served == {(name, rows) for name in both for rows in (1, 16)} | {("7b.gate_up", 16)}


@pytest.mark.parametrize("k", [1024, 3584, 4096, 8192, 9216])
@pytest.mark.parametrize("n", [2112, 4608, 10240, 37888, 152064])
def test_what_is_chosen_fits(k: int, n: int) -> None:
    for multiprocessors, rows in itertools.product((78, 114, 132), (1, 8, 9, 16)):
        card = dataclasses.replace(gpu("sm_90"), multiprocessors=multiprocessors)
        shape = Shape(4, 64, k, n)
        cut = resident.choose(shape, rows, torch.bfloat16, card)
        if cut is not None:
            assert 8 * cut.rows >= rows
            fewest = max(1, cut.blocks(shape, card) * (3 if cut.split > 1 else 4) // 4)
            assert cut.shared_bytes(shape, fewest) <= card.bytes_of_block
            assert layout.chunks(shape) // 2 >= cut.split


@pytest.mark.parametrize(
    ("change", "scales"),
    [
        ({"bits": 8}, torch.float16), ({"group_size": 32}, torch.float16), ({}, torch.float32),
        ({"group_size": 96}, torch.bfloat16),
    ],
)  # fmt: skip
def test_other_formats_are_left_to_the_other_kernel(
    change: dict[str, int], scales: torch.dtype
) -> None:
    shape = dataclasses.replace(Shape(4, 128, 3584, 4608), **change)
    assert resident.choose(shape, 4, scales, gpu("sm_90")) is None


SWEEP = [pytest.mark.slow, pytest.mark.sweep]


@pytest.mark.parametrize(
    "group", [128, pytest.param(0, marks=SWEEP), pytest.param(64, marks=SWEEP)]
)
@pytest.mark.parametrize("scales", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bfloat", [False, True])
def test_every_candidate_compiles_without_spills(
    bfloat: bool, scales: torch.dtype, group: int
) -> None:
    for rows, candidates in resident.CANDIDATES.items():
        for values in candidates:
            program = resident.program_of(
                Cut(rows, *values), Shape(4, group or 4096, 4096, 4096), scales,
                bfloat=bfloat, float_out=False,
            )  # fmt: skip
            judge(program, "sm_90")


def test_the_instructions_that_were_meant() -> None:
    program = resident.program_of(
        Cut(2, 2, 8, 3, 2), Shape(4, 128, 4096, 4096), torch.float16, bfloat=True, float_out=False
    )
    text, _ = compiling.compile_for(program, "compute_90")
    for instruction in (b"ldmatrix", b"griddepcontrol.wait", b"ld.shared::cluster", b"cp.async.cg"):
        assert instruction in text
