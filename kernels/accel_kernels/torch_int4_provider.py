"""The implementation for processors: torch's own int4 kernel, and tiles of its layout.

Few rows of bfloat16 go through `_weight_int4pack_mm_for_cpu`, which reads each weight once and
keeps scales and zeros in bfloat16. More rows, and the other dtypes, for which that kernel has no
vector code, are multiplied with tiles dequantised from the same words.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

from accel_kernels.formats import QuantizedWeight, packing
from accel_kernels.providers import Provider, Shape, register

KERNEL_ROWS = 64
"""Rows up to which the kernel is faster than a tile's dequantisation and its matrix product."""

KERNEL_GROUPS = (256, 128, 64, 32)
"""Group sizes that the kernel has, the largest first; others repeat the scales of one of these."""

TILE_ELEMENTS = 1 << 22
"""Weights of a tile: enough columns for a matrix product to run at its usual speed."""

NIBBLES = 0x0F0F0F0F
BLOCKS = (64, 32)
"""Output features that torch packs together, with AVX-512 and with AVX2."""


class TorchInt4Provider(Provider):
    """4 bits, on the processor.

    Packed: words uint8 [N / block, K, block / 2], where byte i of a block holds feature i in its
    low and i + block / 2 in its high half; zeros and scales, exact, [2, N / block, G, 1, block / 2]
    for the tiles, and in bfloat16 [K / group, N, 2] for the kernel; and with act order the input
    features by group.
    """

    name: ClassVar[str] = "torch_int4"

    def refuses(self, weight: QuantizedWeight, device: torch.device) -> str | None:
        """All but 4 bits in whole groups and blocks, on a processor whose layout is known."""
        if device.type != "cpu":
            return f"it computes on the processor, not on {device.type}"
        if weight.bits != 4:
            return f"torch's kernel has 4 bits, not {weight.bits}"
        block = block_size()
        if block is None:
            return "this torch has no int4 kernel for this processor, or one in another layout"
        if weight.out_features % block:
            return f"{weight.out_features} output features are no multiple of {block}"
        if weight.group_size % KERNEL_GROUPS[-1] or weight.in_features % weight.group_size:
            return (
                f"groups of {weight.group_size} in {weight.in_features} input features are no "
                f"whole multiples of {KERNEL_GROUPS[-1]}"
            )
        if weight.g_idx is not None:
            members = torch.bincount(weight.g_idx.to(torch.int64), minlength=weight.groups)
            if bool((members != weight.group_size).any()):
                return "act order with groups that are not full"
        return None

    def pack(self, weight: QuantizedWeight) -> list[torch.Tensor]:
        """The words in the kernel's order, and scales and zeros twice: exact, and the kernel's."""
        block = block_size() or BLOCKS[0]
        order = None
        if weight.g_idx is not None:
            order = torch.argsort(weight.g_idx.to(torch.int64), stable=True)
        k, n = weight.in_features, weight.out_features
        words = torch.empty(n // block, k, block // 2, dtype=torch.uint8)
        for columns in _columns(n, k, block):
            part = words[columns.start // block : columns.stop // block]
            if order is None:
                _turn(weight.qweight[:, columns], part)
            else:
                part.copy_(_packed(_values(weight, columns, order), block))
        zeros = _by_half(weight.zeros().to(torch.int8), block)
        packed = [words, zeros, _by_half(weight.scales, block), _pairs(weight)]
        return packed if order is None else [*packed, order]

    def unpack(self, packed: Sequence[torch.Tensor], shape: Shape) -> QuantizedWeight:
        """Everything turned back."""
        words, zeros, scales = packed[:3]
        order = packed[4] if len(packed) > 4 else None
        block = 2 * words.shape[-1]
        parts = []
        for columns in _columns(shape.out_features, shape.in_features, block):
            values = _unpacked(words[columns.start // block : columns.stop // block])
            parts.append(packing.pack(_as_stored(values, packed, 0), 4, dim=0))
        return QuantizedWeight(
            bits=4,
            group_size=shape.group_size,
            in_features=shape.in_features,
            out_features=shape.out_features,
            qweight=torch.cat(parts, dim=1),
            qzeros=packing.pack(_from_halves(zeros), 4, dim=1),
            scales=_from_halves(scales),
            g_idx=None if order is None else _groups(order, shape),
        )

    def forward(
        self, x: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape
    ) -> torch.Tensor:
        """x [M, K] times W [K, N]: the kernel for few rows of bfloat16, else tile by tile."""
        if len(packed) > 4:
            x = x.index_select(1, packed[4])
        if x.dtype == torch.bfloat16 and x.shape[0] <= KERNEL_ROWS:
            words, pairs = packed[0], packed[3]
            y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
                x,
                words.view(shape.out_features, -1),
                shape.in_features // pairs.shape[0],
                pairs,
            )
            return y
        y = x.new_empty(x.shape[0], shape.out_features)
        wide = x.to(_computed_in(x.dtype))
        tiles = _Tiles(packed, shape, wide.dtype)
        for columns in _columns(shape.out_features, shape.in_features, tiles.block):
            tile = tiles.dense(slice(0, shape.in_features), columns)
            if columns.stop - columns.start == shape.out_features:
                return (wide @ tile).to(x.dtype)
            y[:, columns] = wide @ tile
        return y

    def backward(
        self, dy: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape
    ) -> torch.Tensor:
        """dy [M, N] times W transposed; a tile spans all of N, so that nothing is summed twice."""
        dx = dy.new_empty(dy.shape[0], shape.in_features)
        wide = dy.to(_computed_in(dy.dtype))
        tiles = _Tiles(packed, shape, wide.dtype)
        for rows in _columns(shape.in_features, shape.out_features, tiles.group):
            dx[:, rows] = wide @ tiles.dense(rows, slice(0, shape.out_features)).t()
        return _as_stored(dx, packed, 1)

    def dequantize(
        self, packed: Sequence[torch.Tensor], shape: Shape, dtype: torch.dtype
    ) -> torch.Tensor:
        """W as [K, N] in `dtype`, each value rounded once."""
        whole = packed[0].new_empty(shape.in_features, shape.out_features, dtype=dtype)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        tiles = _Tiles(packed, shape, exact)
        for columns in _columns(shape.out_features, shape.in_features, tiles.block):
            whole[:, columns] = tiles.dense(slice(0, shape.in_features), columns)
        return (
            whole if len(packed) < 5 else torch.empty_like(whole).index_copy_(0, packed[4], whole)
        )


class _Tiles:
    """Dense pieces of a packed weight, its input features in the order of their groups."""

    def __init__(self, packed: Sequence[torch.Tensor], shape: Shape, dtype: torch.dtype) -> None:
        self.words, zeros, scales, pairs = packed[:4]
        self.block = 2 * self.words.shape[-1]
        self.group = shape.in_features // pairs.shape[0]
        self.dtype = dtype
        repeats = shape.group_size // self.group
        self._zeros = zeros if repeats == 1 else zeros.repeat_interleave(repeats, 2)
        scales = scales.to(dtype)
        self._scales = scales if repeats == 1 else scales.repeat_interleave(repeats, 2)

    def dense(self, rows: slice, columns: slice) -> torch.Tensor:
        """W[rows, columns], whole groups and blocks of it."""
        count, half = rows.stop - rows.start, self.block // 2
        groups = slice(rows.start // self.group, rows.stop // self.group)
        blocks = slice(columns.start // self.block, columns.stop // self.block)
        tile = torch.empty(count, columns.stop - columns.start, dtype=self.dtype)
        # Halves, blocks, groups, features of a group, features of a half.
        parts = tile.view(-1, self.group, blocks.stop - blocks.start, 2, half).permute(
            3, 2, 0, 1, 4
        )
        words = self.words[blocks, rows]
        for index, part in enumerate(parts):
            # bytes, then one conversion: torch has faster code for these than for shorter ways
            values = (words >> 4 if index else words & 15).view(torch.int8)
            values = values.reshape(part.shape).sub_(self._zeros[index, blocks, groups])
            part.copy_(values.to(self.dtype).mul_(self._scales[index, blocks, groups]))
        return tile


def _by_half(values: torch.Tensor, block: int) -> torch.Tensor:
    """[G, N] -> [2, blocks, G, 1, block / 2], as the tiles want zeros and scales."""
    halves = values.unflatten(1, (-1, 2, block // 2)).permute(2, 1, 0, 3)
    return halves[:, :, :, None].contiguous()


def _from_halves(halves: torch.Tensor) -> torch.Tensor:
    """The inverse of `_by_half`."""
    return halves[:, :, :, 0].permute(2, 1, 0, 3).flatten(1).contiguous()


def _computed_in(dtype: torch.dtype) -> torch.dtype:
    """float16 has no fast product on most processors; bfloat16 without its instructions neither."""
    slow = dtype == torch.float16 or (dtype == torch.bfloat16 and not multiplies_bfloat16())
    return torch.float32 if slow else dtype


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the processor has a bfloat16 product in hardware, as torch's oneDNN sees it."""
    supported: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if supported is None:
        return False
    fast = getattr(torch.backends.cpu, "get_cpu_capability", str)() in ("AVX512", "SVE256")
    return bool(supported()) and fast


def _columns(count: int, other: int, multiple: int) -> Iterator[slice]:
    """Pieces of `count` features, each of whole multiples and about TILE_ELEMENTS weights."""
    width = max(multiple, TILE_ELEMENTS // other // multiple * multiple)
    for start in range(0, count, width):
        yield slice(start, min(start + width, count))


def _values(weight: QuantizedWeight, columns: slice, order: torch.Tensor) -> torch.Tensor:
    """q of a band of output features as uint8 [K, n], the input features in `order`."""
    values = packing.unpack(weight.qweight[:, columns], 4, weight.in_features, dim=0)
    return values.index_select(0, order)


def _turn(words: torch.Tensor, out: torch.Tensor) -> None:
    """int32 [K / 8, N], packed along K -> `out`, words uint8 [N / block, K, block / 2].

    As `_packed`, by whole words: four of the eight rows of two halves of a block at once.
    """
    blocks, half = out.shape[0], out.shape[2]
    low, high = words.unflatten(1, (blocks, 2, half)).unbind(2)
    even = (low & NIBBLES).bitwise_or_((high & NIBBLES).bitwise_left_shift_(4))
    odd = (low >> 4).bitwise_and_(NIBBLES).bitwise_or_(high & ~NIBBLES)
    turned = out.view(blocks, -1, 4, 2, half)
    for index, rows in enumerate((even, odd)):
        turned[:, :, :, index] = rows.view(torch.uint8).unflatten(-1, (half, 4)).permute(1, 0, 3, 2)


def _as_stored(values: torch.Tensor, packed: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    """Values by group put back into the checkpoint's order of input features."""
    if len(packed) < 5:
        return values
    return torch.empty_like(values).index_copy_(dim, packed[4], values)


def _packed(values: torch.Tensor, block: int) -> torch.Tensor:
    """uint8 [K, N] -> words uint8 [N / block, K, block / 2]."""
    halves = values.unflatten(1, (-1, 2, block // 2)).permute(2, 1, 0, 3)
    return (halves[1] << 4).bitwise_or_(halves[0]).contiguous()


def _unpacked(words: torch.Tensor) -> torch.Tensor:
    """Words uint8 [N / block, K, block / 2] -> uint8 [K, N]."""
    return torch.stack([words & 15, words >> 4], 2).permute(1, 0, 2, 3).flatten(1)


def _pairs(weight: QuantizedWeight) -> torch.Tensor:
    """bfloat16 [K / group, N, 2]: s and (8 - z) s, to which the kernel adds (q - 8) s."""
    group = next(size for size in KERNEL_GROUPS if weight.group_size % size == 0)
    scales = weight.scales.to(torch.bfloat16)
    shifts = (8.0 - weight.zeros().to(torch.float32)) * scales.to(torch.float32)
    pairs = torch.stack([scales, shifts.to(torch.bfloat16)], 2)
    return pairs.repeat_interleave(weight.group_size // group, 0).contiguous()


def _groups(order: torch.Tensor, shape: Shape) -> torch.Tensor:
    """`g_idx`, of which `order` is the sorting."""
    counted = torch.arange(shape.in_features, dtype=torch.int32) // shape.group_size
    return torch.empty_like(counted).index_copy_(0, order, counted)


@functools.cache
def block_size() -> int | None:
    """Output features that torch packs together here; None where its layout is not the known one.

    Told by packing a few numbers, and by multiplying with them.
    """
    if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
        return None
    made = torch.Generator().manual_seed(0)
    values = torch.randint(0, 16, (32, 128), generator=made, dtype=torch.uint8)
    x = torch.randint(-2, 3, (3, 32), generator=made).to(torch.bfloat16)
    pairs = torch.ones(1, 128, 2, dtype=torch.bfloat16)
    for block in BLOCKS:
        words = _packed(values, block).view(128, -1)
        try:
            theirs = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
                values.t().to(torch.int32).contiguous(), 1
            )
            found = torch.ops.aten._weight_int4pack_mm_for_cpu(x, words, 32, pairs)
        except RuntimeError:
            return None
        expected = (x.float() @ (values.float() - 7.0)).to(torch.bfloat16)
        if torch.equal(theirs, words) and torch.equal(found, expected):
            return block
    return None


register(TorchInt4Provider())
