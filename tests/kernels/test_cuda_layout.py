"""The CUDA kernels' layout: lossless, and what their index arithmetic reads from it.

The emulation here is of mma.sync's fragments as the PTX manual draws them, and of kernels/*.cuh.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_kernels.cuda_provider import layout, pieces
from accel_kernels.formats import QuantizedWeight
from accel_kernels.providers import Shape
from test_formats import random_weight, same

LANES = torch.arange(32)
G, T = LANES // 4, LANES % 4


@settings(deadline=None, max_examples=60)
@given(
    bits=st.sampled_from([4, 8]),
    k=st.integers(1, 40).map(lambda eighths: 8 * eighths),
    n=st.integers(1, 200),
    group=st.sampled_from([-1, 32, 64, 96]),
    act=st.booleans(),
    band=st.sampled_from([1, 1 << 24]),
)
def test_packing_is_lossless(bits: int, k: int, n: int, group: int, act: bool, band: int) -> None:
    weight = random_weight(bits, k, n, group if group <= k else -1, act_order=act)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "BAND_VALUES", band)
        packed = layout.pack(weight)
        assert same(layout.unpack(packed, Shape.of(weight)), weight)
    assert all(tensor.is_contiguous() for tensor in packed)


def fragments(words: torch.Tensor, bits: int) -> torch.Tensor:
    """q as [T, C, n16, lane, step, register, element] of the A fragments."""
    register = torch.arange(4).view(4, 1)
    element = torch.arange(2)
    if bits == 4:
        return (words.unsqueeze(-1).unsqueeze(-1) >> (4 * (register + 4 * element))) & 15
    per_step = words.permute(0, 1, 2, 4, 3, 5).flatten(-2).unflatten(-1, (4, 2))
    pair = register // 2
    chosen = per_step[..., pair.expand(4, 2)]
    return (chosen >> (16 * (register % 2) + 8 * element)) & 255


def zeros_of(zeros: torch.Tensor, bits: int) -> torch.Tensor:
    """z as [T, groups, n16, row 0..15], from the bytes that fragments.cuh takes."""
    column = torch.arange(4)
    if bits == 4:
        byte = (zeros >> (8 * column)) & 255
        low, high = byte & 15, byte >> 4
    else:
        word = zeros[..., column // 2] >> (16 * (column % 2))
        low, high = word & 255, (word >> 8) & 255
    return torch.cat([low, high], dim=2).transpose(2, 3)


def emulate(x: torch.Tensor, packed: list[torch.Tensor], shape: Shape) -> torch.Tensor:
    """y as decode.cu computes it, in float64: for every tile, chunk, n16 tile and step one mma."""
    words, zeros, scales = packed[:3]
    rows, k = x.shape
    assert rows <= 8
    chunks = layout.chunks(shape)
    padded = torch.zeros(8, chunks * layout.CHUNK, dtype=torch.float64)
    padded[:rows, :k] = x
    q = fragments(words, shape.bits)
    z = zeros_of(zeros, shape.bits)
    s = scales.to(torch.float64).unflatten(-1, (4, 2)).permute(0, 1, 3, 4, 2).flatten(-2)
    y = torch.zeros(8, layout.tiles(shape) * layout.TILE, dtype=torch.float64)
    for chunk in range(chunks):
        for step in range(4):
            start = chunk * layout.CHUNK + 32 * (step // 2)
            group = min(start // shape.group_size, layout.groups(shape) - 1)
            a = torch.zeros(*q.shape[:1], 4, 16, 16, dtype=torch.float64)
            b = torch.zeros(16, 8, dtype=torch.float64)
            for e in range(2):
                for r in range(4):
                    row, column = G + 8 * (r % 2), 2 * T + e + 8 * (r // 2)
                    a[:, :, row, column] = q[:, chunk, :, :, step, r, e].to(torch.float64)
                for p in range(2):
                    place = start + 16 * (step % 2) + 8 * p + 2 * T + e
                    b[2 * T + e + 8 * p, G] = padded[G, place]
            exact = (a - z[:, group].unsqueeze(-1)) * s[:, group].unsqueeze(-1)
            y += (exact @ b).flatten(0, 2).T
    return y[:rows, : shape.out_features]


@settings(deadline=None, max_examples=25)
@given(
    bits=st.sampled_from([4, 8]),
    k=st.sampled_from([8, 64, 96, 200, 256]),
    n=st.sampled_from([1, 64, 72, 130]),
    group=st.sampled_from([-1, 32, 64, 96]),
    rows=st.integers(1, 8),
    act=st.booleans(),
)
def test_the_kernels_read_what_was_packed(
    bits: int, k: int, n: int, group: int, rows: int, act: bool
) -> None:
    weight = random_weight(bits, k, n, group if group <= k else -1, act_order=act)
    packed = layout.pack(weight)
    x = torch.randn(rows, k, dtype=torch.float64)
    ordered = x if len(packed) < 4 else x[:, packed[3]]
    found = emulate(ordered, packed, Shape.of(weight))
    assert torch.allclose(found, x @ weight.dequantize(torch.float64), rtol=1e-12, atol=1e-12)


def as_numbers(patterns: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    signed = torch.where(patterns >= 1 << 15, patterns - (1 << 16), patterns)
    return signed.to(torch.int16).view(dtype).to(torch.float64)


def test_the_numbers_written_into_mantissas_are_exact() -> None:
    q, z = torch.arange(16).view(-1, 1), torch.arange(16)
    half, bf = torch.float16, torch.bfloat16
    for low, high, factor_low, factor_high, zero_low, zero_high, dtype, unit in (
        (0x6400, 0x6400, 0x3C00, 0x2C00, 0xE400 | z, 0xD400 | (z << 4), half, 1.0),
        (0x4300, 0x0000, 0x3E80, 0x7F00, 0xC200 | z, z << 4, bf, 4.0),
    ):
        number = {key: as_numbers(torch.tensor([key]), dtype) for key in (factor_low, factor_high)}
        zero = as_numbers(zero_high, dtype)
        if dtype is bf:  # subnormal zeros are taken to -z / 4 by a product first
            zero = zero * as_numbers(torch.tensor([0xFF00]), dtype)
        below = as_numbers(low | q, dtype) * number[factor_low] + as_numbers(zero_low, dtype)
        above = as_numbers(high | (q << 4), dtype) * number[factor_high] + zero
        expected = (q - z).to(torch.float64) / unit
        assert torch.equal(below, expected)
        assert torch.equal(above, expected)
        assert torch.equal(expected.to(dtype).to(torch.float64), expected)


def a_disorderly_weight() -> QuantizedWeight:
    weight = random_weight(4, 128, 16, 64, act_order=True)
    assert weight.g_idx is not None
    weight.g_idx[weight.g_idx.nonzero()[0]] = 0  # 65 members of one group, 63 of the other
    return weight


def test_groups_of_unequal_sizes_are_noticed() -> None:
    assert layout.orderly(random_weight(4, 128, 16, 64, act_order=True))
    assert not layout.orderly(a_disorderly_weight())


@given(st.integers(-120, 120), st.integers(0, 1 << 30))
@settings(deadline=None)
def test_two_pieces_keep_the_precision_of_float32(exponent: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.ldexp(torch.randn(3, 40), torch.tensor(exponent))
    parts, scale = pieces.split(x)
    assert parts.dtype == torch.float16
    weight = torch.randn(40, 16, dtype=torch.float64)
    products = (parts.to(torch.float64) @ weight).to(torch.float32)
    found = pieces.join(products, scale, torch.float32)
    exact = x.to(torch.float64) @ weight
    assert float((found - exact).norm() / exact.norm()) < 5e-7


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so(poison: float) -> None:
    x = torch.randn(2, 8)
    x[1, 3] = poison
    parts, scale = pieces.split(x)
    found = pieces.join((parts.to(torch.float32) @ torch.ones(8, 1)), scale, torch.float32)
    assert found[0].isfinite()
    assert not found[1].isfinite()
