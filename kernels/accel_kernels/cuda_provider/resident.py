"""y = x W for up to 16 rows of x, by kernels/resident.cu, which explains itself."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch

from accel_kernels.cuda_provider import layout
from accel_kernels.cuda_provider.compiling import Program
from accel_kernels.cuda_provider.launch import Launch, clusters_at_once, function
from accel_kernels.cuda_provider.planning import SCALE_KINDS, Gpu, gpu, group_constant
from accel_kernels.providers import Shape

STAGE_CHUNKS = 2


@dataclasses.dataclass(frozen=True)
class Cut:
    """Constants of kernels/resident.cu."""

    rows: int
    columns: int
    warps: int
    depth: int
    split: int

    def shared_bytes(self, shape: Shape, blocks: int) -> int:
        """A block's x, the rings of weights, the warps' sums and, in a cluster, the units'."""
        stages = -(-layout.chunks(shape) // STAGE_CHUNKS)
        groups = 2 if group_constant(shape) % 128 else 1
        slot = STAGE_CHUNKS * self.columns * 512 + groups * 160
        x = self.rows * STAGE_CHUNKS * 1024
        fragments = self.columns * self.rows * 512
        totals = -(-self.units(shape) // blocks) * fragments if self.split > 1 else 0
        warps = self.warps * (self.depth * slot + fragments)
        return -(-stages // self.split) * x + warps + totals

    def units(self, shape: Shape) -> int:
        """Stretches of output features, which blocks share."""
        return layout.tiles(shape) * (4 // self.columns)

    def blocks(self, shape: Shape, gpu: Gpu) -> int:
        """Clusters to launch, or blocks where these are alone."""
        return min(self.units(shape), gpu.multiprocessors // self.split)


def program_of(
    cut: Cut, shape: Shape, scales: torch.dtype, *, bfloat: bool, float_out: bool
) -> Program:
    """The kernel for a cut."""
    return Program.of(
        "resident.cu", BF16=int(bfloat), BITS=shape.bits, GROUP=group_constant(shape),
        SCALE=SCALE_KINDS[scales], ROWS=cut.rows, COLUMNS=cut.columns, WARPS=cut.warps,
        DEPTH=cut.depth, SPLIT=cut.split, FLOAT_OUT=int(float_out), EARLY=1,
    )  # fmt: skip


CAPABILITY = (9, 0)
MOST_ROWS = 16
# (columns, warps, depth, split) by tiles of 8 rows, in the order of preference. Measured on an H100
# with bf16 and groups of 128: of about 60 cuts those that were best, or within 4 % of it, for the
# layers of 7B, 8B and 72B models.
CANDIDATES = {
    1: ((4, 8, 4, 1), (2, 12, 4, 1), (2, 12, 3, 1), (2, 8, 4, 1)),
    2: ((4, 8, 2, 1), (2, 8, 4, 1), (2, 8, 3, 1), (2, 8, 3, 2)),
}
FEWEST_BUSY = 0.5  # of the multiprocessors
MOST_ROUNDS = 3  # units of a block beyond which decode.cu is faster, where there are at most 8 rows


@functools.lru_cache(maxsize=4096)
def choose(shape: Shape, rows: int, scales: torch.dtype, gpu: Gpu) -> Cut | None:
    """The cut for `rows` rows of x, or None where decode.cu serves better, or x does not fit."""
    if gpu.capability != CAPABILITY or rows > MOST_ROWS or shape.bits != 4:
        return None
    if group_constant(shape) % layout.CHUNK or scales == torch.float32:
        return None
    tiles = 1 if rows <= 8 else 2
    cuts = [cut for values in CANDIDATES[tiles] if _serves(cut := Cut(tiles, *values), shape, gpu)]
    if not cuts:
        return None
    best = min(cuts, key=lambda cut: _rounds(cut, shape, gpu) * cut.columns)
    return None if tiles == 1 and _rounds(best, shape, gpu) > MOST_ROUNDS else best


def _rounds(cut: Cut, shape: Shape, gpu: Gpu) -> int:
    return -(-cut.units(shape) // cut.blocks(shape, gpu))


def _fits(cut: Cut, shape: Shape, gpu: Gpu) -> bool:
    # Not every multiprocessor may find a place in a cluster; fewer clusters have more units each.
    fewest = cut.blocks(shape, gpu) if cut.split == 1 else cut.blocks(shape, gpu) * 3 // 4
    return cut.shared_bytes(shape, max(1, fewest)) <= gpu.bytes_of_block


def _serves(cut: Cut, shape: Shape, gpu: Gpu) -> bool:
    return (
        _fits(cut, shape, gpu)
        and layout.chunks(shape) >= STAGE_CHUNKS * cut.warps * cut.split
        and cut.blocks(shape, gpu) * cut.split >= FEWEST_BUSY * gpu.multiprocessors
        and (cut.columns < 4 or _rounds(cut, shape, gpu) == 1)
        and (cut.split == 1 or not _fits(dataclasses.replace(cut, split=1), shape, gpu))
    )


@functools.lru_cache(maxsize=4096)
def prepared(
    shape: Shape, cut: Cut, dtype: torch.dtype, scales: torch.dtype, out: torch.dtype, device: int
) -> Launch:
    """The kernel, compiled and loaded, and its grid."""
    program = program_of(
        cut, shape, scales, bfloat=dtype == torch.bfloat16, float_out=out == torch.float32
    )
    blocks = cut.blocks(shape, gpu(device))
    shared = cut.shared_bytes(shape, blocks)
    kernel = function(program, "resident", device, shared, early=True)
    if cut.split > 1:
        at_once = clusters_at_once(kernel, cut.split, cut.warps * 32, shared)
        blocks = max(1, min(blocks, at_once))
        shared = cut.shared_bytes(shape, blocks)
        kernel = function(program, "resident", device, shared, early=True)
    sizes = (
        shape.out_features, shape.in_features, layout.chunks(shape), layout.groups(shape),
        cut.units(shape), blocks,
    )  # fmt: skip
    return Launch(kernel, blocks, shared, sizes)


def multiply(
    x: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape, cut: Cut,
    out: torch.dtype | None = None,
) -> torch.Tensor:  # fmt: skip
    """x [M, K] fp16 or bf16, contiguous, times W; in `out` (float32 or x's own dtype)."""
    words, zeros, scales = packed[:3]
    made = out or x.dtype
    launch = prepared(shape, cut, x.dtype, scales.dtype, made, x.device.index)
    y = torch.empty(x.shape[0], shape.out_features, dtype=made, device=x.device)
    arguments = [x, words, scales, zeros, y, x.shape[0], *launch.sizes]
    with torch.cuda.device(x.device):
        grid = (launch.blocks, cut.split, 1)
        launch.kernel(grid, cut.warps * 32, launch.shared_bytes, arguments)
    return y
