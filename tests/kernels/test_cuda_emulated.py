"""The CUDA kernels themselves, compiled to PTX and run on the CPU, against float64."""

from __future__ import annotations

import itertools

import pytest
import torch

import ptx
from accel_kernels.cuda_provider import compiling, layout, nvrtc, planning
from accel_kernels.cuda_provider.compiling import Program
from accel_kernels.cuda_provider.planning import Cut
from accel_kernels.formats import QuantizedWeight
from accel_kernels.providers import Shape
from test_formats import random_weight

pytestmark = pytest.mark.skipif(
    not list(nvrtc.candidates()), reason="no NVRTC here: pip install nvidia-cuda-nvrtc"
)
TURING, AMPERE, HOPPER = (7, 5), (8, 0), (9, 0)
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 6e-3, torch.float32: 1e-6}


def ptx_of(program: Program, capability: tuple[int, int]) -> str:
    code, _ = compiling.compile_for(program, f"compute_{capability[0]}{capability[1]}")
    return code.rstrip(b"\0").decode()


def emulated(
    weight: QuantizedWeight, x: torch.Tensor, cut: Cut, capability: tuple[int, int],
    out: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """What `decoding.decode` launches, launched here."""
    shape, packed = Shape.of(weight), layout.pack(weight)
    words, zeros, scales = packed[:3]
    rows, k, n = x.shape[0], shape.in_features, shape.out_features
    y = torch.full((rows, n), float("nan"), dtype=out)
    program = planning.decode_program(
        cut, shape, scales.dtype, capability,
        bfloat=x.dtype == torch.bfloat16, float_out=out == torch.float32,
    )  # fmt: skip
    clustered = dict(program.constants)["CLUSTER"]
    parts = None
    if cut.split > 1 and not clustered:
        parts = torch.full((cut.split, rows, n), float("nan"))
    text = ptx_of(program, capability)
    ordered = x if len(packed) < 4 else x[:, packed[3]].contiguous()
    ptx.run(
        text, "decode", planning.grid(cut, shape, rows), cut.warps * 32,
        cut.shared_bytes(shape, scales.dtype),
        [ordered, words, scales, zeros, y, parts, rows, n, k, layout.chunks(shape),
         layout.groups(shape)],
    )  # fmt: skip
    if parts is not None:
        blocks = -(-y.numel() // 256)
        ptx.run(text, "combine", (blocks, 1, 1), 256, 0, [parts, y, y.numel()])
    return y


def check(
    weight: QuantizedWeight, rows: int, dtype: torch.dtype, cut: Cut,
    capability: tuple[int, int], out: torch.dtype | None = None,
) -> None:  # fmt: skip
    x = torch.randn(rows, weight.in_features).to(dtype)
    y = emulated(weight, x, cut, capability, out or dtype)
    exact = x.double() @ weight.dequantize(torch.float64)
    assert float((y.double() - exact).norm() / exact.norm()) < TOLERANCE[out or dtype]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        (TURING, torch.float16), (AMPERE, torch.bfloat16), (HOPPER, torch.float16),
        (HOPPER, torch.bfloat16),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ring", [False, True])
def test_generations_and_dtypes(
    bits: int, capability: tuple[int, int], dtype: torch.dtype, ring: bool
) -> None:
    weight = random_weight(bits, 192, 40, 64)
    check(weight, 3, dtype, Cut(1, 2, 1, 2, 1, 1, ahead=True, ring=ring), capability)


@pytest.mark.parametrize("group", [32, 96, -1])
@pytest.mark.parametrize("bits", [4, 8])
def test_groups(bits: int, group: int) -> None:
    weight = random_weight(bits, 200, 24, group, act_order=group == 32)
    check(weight, 2, torch.bfloat16, Cut(1, 1, 1, 3, 1, 1, ahead=False, ring=True), AMPERE)


@pytest.mark.parametrize("scales", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("columns", "ring"), [(1, True), (2, False), (4, True), (4, False)])
def test_dtypes_of_scales(scales: torch.dtype, columns: int, ring: bool) -> None:
    weight = random_weight(4, 64, 64, 32)
    object.__setattr__(weight, "scales", weight.scales.to(scales))
    cut = Cut(1, columns, 1, 2, 1, 1, ahead=False, ring=ring)
    check(weight, 1, torch.float16, cut, AMPERE, torch.float32)


@pytest.mark.parametrize("capability", [AMPERE, HOPPER])
@pytest.mark.parametrize(("warps", "split"), [(1, 2), (2, 2), (3, 1)])
def test_sharing_k(capability: tuple[int, int], warps: int, split: int) -> None:
    weight = random_weight(4, 320, 17, 64)
    cut = Cut(2, 2, warps, 2, split, 1, ahead=True, ring=True)
    check(weight, 11, torch.bfloat16, cut, capability)


def test_more_rows_than_one_block_takes_and_more_warps_than_chunks() -> None:
    weight = random_weight(4, 128, 16, 128)
    check(weight, 13, torch.float16, Cut(1, 1, 4, 2, 1, 1, ahead=True, ring=False), HOPPER)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_the_cuts_that_are_chosen_on_hopper(rows: int) -> None:
    for candidate in planning.CANDIDATES[rows]:
        cut = candidate.cut(rows, 2 if candidate.columns == 4 else 1)
        chunks = cut.split * cut.warps * (cut.depth - 1) + 3
        weight = random_weight(4, 64 * chunks, 16 * candidate.columns, 128)
        check(weight, 8 * rows - 1, torch.bfloat16, cut, HOPPER)


def test_reading_before_the_kernel_before_has_ended_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = dict(compiling.sources())
    early = "if (!X_RING && AHEAD && begin < end) load_x"
    text = compiling.sources()["decode.cu"]
    wait = text.index("#if EARLY\n  // Weights")
    block = text[wait : text.index("#endif\n", wait) + len("#endif\n")]
    assert early in text
    late = text.replace(block, "").replace("  stream.finish();\n", f"{block}  stream.finish();\n")
    monkeypatch.setattr(compiling, "sources", lambda: {**real, "decode.cu": late})
    weight = random_weight(4, 64, 16, 64)
    with pytest.raises(ptx.Fault, match="before griddepcontrol"):
        check(weight, 1, torch.float16, Cut(1, 1, 1, 2, 1, 1, ring=True), HOPPER)


@pytest.mark.parametrize("bits", [4, 8])
def test_dequantising_is_exact(bits: int) -> None:
    kinds = planning.SCALE_KINDS
    for group, (dtype, out) in itertools.product((32, -1), kinds.items()):
        weight = random_weight(bits, 72, 37, group)
        shape = Shape.of(weight)
        words, zeros, scales = layout.pack(weight)
        program = Program.of(
            "dequantize.cu", BITS=bits, BF16=0, GROUP=planning.group_constant(shape),
            SCALE=0, OUT=out,
        )  # fmt: skip
        found = torch.full((37, 72), float("nan"), dtype=dtype)
        arguments = [words, scales, zeros, found, 0, 0, 37, 72, 2, layout.groups(shape)]
        ptx.run(ptx_of(program, AMPERE), "dequantize", (1, 1, 1), 256, 0, arguments)
        assert torch.equal(found, weight.dequantize(dtype).t())
