"""y = x W and dX = dY W^T for many rows: W is dequantised a slab at a time, for cuBLAS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from accel_kernels.cuda_provider import layout
from accel_kernels.cuda_provider.compiling import Program
from accel_kernels.cuda_provider.launch import function
from accel_kernels.cuda_provider.planning import SCALE_KINDS, group_constant
from accel_kernels.providers import Shape

THREADS = 256
CHUNKS_OF_BLOCK = 2
SLAB_BYTES = 512 << 20
"""A whole layer of a 7B model. Measured on an H100: smaller slabs cost more than they save, since
cuBLAS then runs in many products that leave multiprocessors idle, except forward with many rows."""
MANY_ROWS = 2048
SLAB_BYTES_OF_MANY_ROWS = 64 << 20


def forward(x: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape) -> torch.Tensor:
    """x [M, K] times W, slab after slab of output features."""
    y = torch.empty(x.shape[0], shape.out_features, dtype=x.dtype, device=x.device)
    buffer = None
    most = SLAB_BYTES if x.shape[0] < MANY_ROWS else min(SLAB_BYTES, SLAB_BYTES_OF_MANY_ROWS)
    for first, last in _slabs(shape.out_features, shape.in_features * x.element_size(), most):
        columns = slice(first, min(last, shape.out_features))
        count = columns.stop - columns.start
        if buffer is None:
            buffer = x.new_empty(count, shape.in_features)
        slab = buffer[:count]
        write(slab, packed, shape, first_tile=first // layout.TILE)
        torch.mm(x, slab.t(), out=y[:, columns])
    return y


def backward(dy: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape) -> torch.Tensor:
    """dy [M, N] times W transposed, slab after slab of input features: no sum is ever split."""
    dx = torch.empty(dy.shape[0], shape.in_features, dtype=dy.dtype, device=dy.device)
    buffer = None
    one = shape.out_features * dy.element_size()
    for first, last in _slabs(shape.in_features, one, SLAB_BYTES):
        columns = slice(first, min(last, shape.in_features))
        count = columns.stop - columns.start
        if buffer is None:
            buffer = dy.new_empty(shape.out_features * count)
        slab = buffer[: shape.out_features * count].view(shape.out_features, count)
        write(slab, packed, shape, first_chunk=first // layout.CHUNK)
        torch.mm(dy, slab, out=dx[:, columns])
    return dx


def write(
    out: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape, *,
    first_tile: int = 0, first_chunk: int = 0,
) -> None:  # fmt: skip
    """Fill `out` [features out, features in] with W from that tile and chunk on.

    Each value is (q - z) s, rounded once.
    """
    words, zeros, scales = packed[:3]
    program = Program.of(
        "dequantize.cu",
        BITS=shape.bits,
        BF16=0,
        GROUP=group_constant(shape),
        SCALE=SCALE_KINDS[scales.dtype],
        OUT=SCALE_KINDS[out.dtype],
    )
    rows, width = out.shape
    device = out.device.index
    blocks = -(-width // (layout.CHUNK * CHUNKS_OF_BLOCK))
    with torch.cuda.device(device):
        function(program, "dequantize", device)(
            (-(-rows // layout.TILE), blocks, 1), THREADS, 0,
            [words, scales, zeros, out, first_tile, first_chunk, rows, width,
             layout.chunks(shape), layout.groups(shape)],
        )  # fmt: skip


def _slabs(features: int, bytes_of_one: int, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of features, whole tiles (or chunks, which are as long), of at most `most` bytes."""
    width = max(1, most // (bytes_of_one * layout.TILE)) * layout.TILE
    for first in range(0, features, width):
        yield first, first + width
