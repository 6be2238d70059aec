"""The layout that the CUDA kernels read, and the way back; kernels/common.cuh draws it.

packed = [words, zeros, scales] and, with act order, [order, inverse]:

- `words` int32 [T, C, 4, 32, 4] for 4 bits, [T, C, 4, 2, 32, 4] for 8;
- `zeros` int32 [T, groups, 8, bits / 4], `scales` [T, groups, 8, 8] in the checkpoint's dtype;
- `order` int32 [K]: the input feature that stands at each place once groups stand together, and
  `inverse`, its inverse.

T = ceil(N / 64) tiles of output features, C = ceil(K / 64) chunks of input features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from accel_kernels.formats import QuantizedWeight, packing
from accel_kernels.formats.canonical import plain_groups
from accel_kernels.providers import Shape

TILE = 64
CHUNK = 64
BAND_VALUES = 1 << 24
"""Values rearranged at a time: loading a layer takes at most about ten times this many bytes."""

# values [C, j, u, p, t, e, T, n16, half, g]: k = 64 C + 32 j + 16 u + 8 p + 2 t + e and
# n = 64 T + 16 n16 + 8 half + g. In a word of 4 bits (half, p, e) count from the lowest bit; with
# 8 bits (e, half, p) do, over two words.
_FOUR_BITS = (6, 0, 7, 9, 4, 1, 2, 5, 3, 8)
_EIGHT_BITS = (6, 0, 7, 1, 9, 4, 2, 3, 8, 5)


def tiles(shape: Shape) -> int:
    """T, the tiles of 64 output features."""
    return -(-shape.out_features // TILE)


def chunks(shape: Shape) -> int:
    """C, the chunks of 64 input features."""
    return -(-shape.in_features // CHUNK)


def groups(shape: Shape) -> int:
    """Groups along K; the last may be short."""
    return -(-shape.in_features // shape.group_size)


def order_of(weight: QuantizedWeight) -> torch.Tensor | None:
    """int64 [K] that puts the members of each group side by side; None where they stand so."""
    return None if weight.g_idx is None else torch.argsort(weight.g_idx, stable=True)


def orderly(weight: QuantizedWeight) -> bool:
    """Whether, put side by side, all groups but the last have group_size members."""
    order = order_of(weight)
    if order is None or weight.g_idx is None:
        return True
    return plain_groups(weight.g_idx[order], weight.in_features, weight.group_size) is None


def pack(weight: QuantizedWeight) -> list[torch.Tensor]:
    """The weight in the kernels' layout, a band of output features at a time."""
    shape, order = Shape.of(weight), order_of(weight)
    words, zeros, scales = empty(shape, weight.scales.dtype, weight.qweight.device)
    for first, last in _bands(shape):
        columns = slice(first * TILE, min(last * TILE, shape.out_features))
        values = packing.unpack(weight.qweight[:, columns], shape.bits, shape.in_features, dim=0)
        words[first:last] = _words(values if order is None else values[order], shape.bits)
    zeros.copy_(_group_words(weight.zeros(), shape.bits))
    scales.copy_(_by_tile(weight.scales))
    if order is None:
        return [words, zeros, scales]
    return [words, zeros, scales, order.to(torch.int32), torch.argsort(order).to(torch.int32)]


def unpack(packed: Sequence[torch.Tensor], shape: Shape) -> QuantizedWeight:
    """The weight that `pack` took, bit for bit."""
    words, zeros, scales = packed[:3]
    k, n, size, bits = shape.in_features, shape.out_features, shape.group_size, shape.bits
    inverse = packed[4].to(torch.int64) if len(packed) > 4 else None
    qweight = words.new_empty(packing.words_for(k, bits), n)
    for first, last in _bands(shape):
        values = _values(words[first:last], bits)[:k, : n - first * TILE]
        ordered = values if inverse is None else values[inverse]
        qweight[:, first * TILE : last * TILE] = packing.pack(ordered, bits, dim=0)
    flat_zeros = packing.unpack(zeros, bits, 8, dim=3)
    g_idx = None
    if inverse is not None:
        counted = torch.arange(k, device=words.device, dtype=torch.int32) // size
        g_idx = counted[inverse]
    return QuantizedWeight(
        bits=bits,
        group_size=size,
        in_features=k,
        out_features=n,
        qweight=qweight,
        qzeros=packing.pack(_from_tiles(flat_zeros, n), bits, dim=1),
        scales=_from_tiles(scales, n),
        g_idx=g_idx,
    )


def empty(
    shape: Shape, scales_dtype: torch.dtype, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Words, zeros and scales of the right shapes, not filled."""
    t, g = tiles(shape), groups(shape)
    vectors = (2,) if shape.bits == 8 else ()
    words = (t, chunks(shape), 4, *vectors, 32, 4)
    return (
        torch.empty(words, dtype=torch.int32, device=device),
        torch.empty((t, g, 8, shape.bits // 4), dtype=torch.int32, device=device),
        torch.empty((t, g, 8, 8), dtype=scales_dtype, device=device),
    )


def _bands(shape: Shape) -> Iterator[tuple[int, int]]:
    """Ranges of tiles of about BAND_VALUES values each."""
    width = max(1, BAND_VALUES // (TILE * shape.in_features))
    for first in range(0, tiles(shape), width):
        yield first, min(first + width, tiles(shape))


def _words(values: torch.Tensor, bits: int) -> torch.Tensor:
    k, n = values.shape
    padded = torch.nn.functional.pad(values, (0, -n % TILE, 0, -k % CHUNK))
    split = padded.view(-1, 2, 2, 2, 4, 2, padded.shape[1] // TILE, 4, 2, 8)
    ordered = split.permute(_FOUR_BITS if bits == 4 else _EIGHT_BITS)
    words = packing.pack(ordered.flatten(-3), bits, dim=-1)
    if bits == 4:  # [T, C, n16, g, t, j, u, 1]
        return words.reshape(*words.shape[:3], 32, 4)
    return words.reshape(*words.shape[:4], 32, 4)  # [T, C, n16, j, g, t, u, 2]


def _values(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Words of some tiles -> values uint8 [64 C, 64 T]."""
    lanes = (8, 4, 2, 2) if bits == 4 else (8, 4, 2)
    per_step = words.reshape(*words.shape[:3], *((2,) if bits == 8 else ()), *lanes, bits // 4)
    order = _FOUR_BITS if bits == 4 else _EIGHT_BITS
    values = packing.unpack(per_step, bits, 8, dim=-1).unflatten(-1, (2, 2, 2))
    back = [order.index(axis) for axis in range(len(order))]
    spread = values.permute(back)
    return spread.reshape(spread.shape[0] * CHUNK, -1)


def _by_tile(tensor: torch.Tensor) -> torch.Tensor:
    """[groups, N] -> [T, groups, g, (n16, half)], padded with zeros."""
    padded = torch.nn.functional.pad(tensor, (0, -tensor.shape[1] % TILE))
    return padded.view(tensor.shape[0], -1, 8, 8).permute(1, 0, 3, 2)


def _from_tiles(tensor: torch.Tensor, out_features: int) -> torch.Tensor:
    flat = tensor.permute(1, 0, 3, 2).reshape(tensor.shape[1], -1)
    return flat[:, :out_features].contiguous()


def _group_words(zeros: torch.Tensor, bits: int) -> torch.Tensor:
    return packing.pack(_by_tile(zeros).contiguous(), bits, dim=3)
