"""How the decode kernel cuts a layer into blocks: numbers chosen from measurements, never guessed
from the device's name.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import torch

from accel_kernels.cuda_provider import layout
from accel_kernels.cuda_provider.compiling import Program
from accel_kernels.providers import Shape

SCALE_KINDS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
FEW_ROWS = 64
"""Rows of x up to which the decode kernel is used."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """Constants of kernels/decode.cu, where each is explained."""

    rows: int
    columns: int
    warps: int
    depth: int
    split: int
    blocks: int
    ahead: bool = True
    ring: bool = False
    early: int = 1

    def shared_bytes(self, shape: Shape, scales: torch.dtype) -> int:
        """Dynamic shared memory of one block: the warps' fp32 sums, and before them the rings."""
        sums = self.warps * self.columns * self.rows * 128 * 4
        vectors = shape.bits // 4
        halves = 2 if group_constant(shape) % layout.CHUNK else 1
        of_group = 8 * (self.columns * 2 * scales.itemsize + vectors * 4)
        of_x = self.rows * 1024 if self.rows > 1 else 0
        of_chunk = self.columns * vectors * 512 + halves * of_group + of_x
        ring = self.warps * self.depth * of_chunk
        return max(sums, ring) if self.ring else sums


def group_constant(shape: Shape) -> int:
    """GROUP of the kernels: 0 where one group takes in the whole of K."""
    return 0 if shape.group_size >= shape.in_features else shape.group_size


def decode_program(
    cut: Cut, shape: Shape, scales: torch.dtype, capability: tuple[int, int], *,
    bfloat: bool, float_out: bool,
) -> Program:  # fmt: skip
    """The decode kernel for a cut. Clusters and early launch come with sm_90."""
    hopper = capability >= (9, 0)
    return Program.of(
        "decode.cu",
        BF16=int(bfloat),
        BITS=shape.bits,
        GROUP=group_constant(shape),
        SCALE=SCALE_KINDS[scales],
        ROWS=cut.rows,
        COLUMNS=cut.columns,
        WARPS=cut.warps,
        DEPTH=cut.depth,
        SPLIT=cut.split,
        CLUSTER=int(hopper and cut.split > 1),
        BLOCKS=cut.blocks,
        FLOAT_OUT=int(float_out),
        AHEAD=int(cut.ahead),
        EARLY=cut.early if hopper else 0,
        RING=int(cut.ring and capability >= (8, 0)),
    )


def grid(cut: Cut, shape: Shape, rows: int) -> tuple[int, int, int]:
    """Blocks over output features, parts of K and rows of x."""
    return (layout.tiles(shape) * (4 // cut.columns), cut.split, -(-rows // (8 * cut.rows)))


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What a cut depends on; bytes are of shared memory."""

    capability: tuple[int, int]
    multiprocessors: int
    bytes_of_block: int
    bytes_of_multiprocessor: int
    warps_of_multiprocessor: int


@functools.lru_cache(maxsize=64)
def gpu(device: int) -> Gpu:
    """GPU number `device` of this process."""
    found = torch.cuda.get_device_properties(device)
    return Gpu(
        (found.major, found.minor),
        found.multi_processor_count,
        getattr(found, "shared_memory_per_block_optin", 48 << 10),
        getattr(found, "shared_memory_per_multiprocessor", 64 << 10),
        found.max_threads_per_multi_processor // 32,
    )


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A cut worth trying, and how well it did where nothing but its own speed counted."""

    columns: int
    warps: int
    depth: int
    blocks: int
    ahead: bool
    ring: bool
    speed: float

    def cut(self, rows: int, split: int) -> Cut:
        """For `rows` tiles of 8 rows, K shared by `split` blocks."""
        return Cut(
            rows, self.columns, self.warps, self.depth, split, self.blocks, self.ahead, self.ring
        )


# Measured on an H100 with bf16 and groups of 128: of about 20 cuts for each number of rows, those
# that were best, or within 5 % of it, for some layer of a 7B, 8B or 72B model.
CANDIDATES = {
    1: (
        Candidate(4, 4, 2, 5, False, False, 1.1),
        Candidate(4, 16, 2, 1, False, False, 1.1),
        Candidate(2, 16, 4, 1, True, False, 1.0),
        Candidate(1, 8, 6, 3, False, False, 0.96),
    ),
    2: (
        Candidate(4, 8, 3, 2, False, True, 1.08),
        Candidate(4, 8, 4, 1, False, True, 1.05),
        Candidate(4, 4, 4, 3, False, True, 1.03),
        Candidate(2, 16, 2, 1, False, True, 1.0),
        Candidate(1, 8, 4, 1, False, True, 0.9),
        Candidate(2, 4, 3, 2, False, True, 0.9),
    ),
    4: (
        Candidate(4, 8, 2, 1, False, True, 1.1),
        Candidate(4, 4, 3, 1, False, True, 1.0),
        Candidate(2, 8, 2, 1, False, True, 0.95),
        Candidate(2, 4, 2, 2, False, True, 0.9),
        Candidate(1, 8, 2, 1, False, True, 0.85),
    ),
}
# For 8 bits, groups that are no multiple of 64, fp32 scales: they take more registers. Judged by
# compiled code alone.
HEAVY = {
    1: (Candidate(2, 4, 4, 4, False, True, 1.0), Candidate(1, 8, 6, 2, True, True, 0.9)),
    2: (Candidate(2, 4, 4, 2, False, True, 1.0), Candidate(1, 4, 4, 2, False, True, 0.9)),
    4: (Candidate(2, 4, 2, 2, False, True, 1.0), Candidate(1, 4, 3, 2, False, True, 0.85)),
}
# For Turing, which has no cp.async. Judged by compiled code alone.
WITHOUT_RING = {
    1: (Candidate(2, 4, 2, 4, False, False, 1.0), Candidate(1, 8, 4, 2, False, False, 0.9)),
    2: (Candidate(2, 4, 2, 3, False, False, 1.0), Candidate(1, 8, 4, 2, False, False, 0.9)),
    4: (Candidate(2, 4, 2, 2, False, False, 1.0), Candidate(1, 8, 3, 2, False, False, 0.85)),
}
SPLITS = (1, 2, 4, 8)
LARGE_BYTES = 24 << 20
ENOUGH_WARPS = 14  # of a multiprocessor, to keep its share of memory busy
ENOUGH_WIDE_WARPS = 7  # as many, where each has four n16 tiles and 32 rows to multiply
FEWEST_WARPS = 6
WAVE_LOSS = 0.97
SPLIT_SECONDS = 0.4e-6  # for each block of a cluster
BYTES_PER_SECOND = 3.08e12


def candidates(shape: Shape, rows: int, scales: torch.dtype, gpu: Gpu) -> tuple[Candidate, ...]:
    """The cuts to choose among for `rows` tiles of 8 rows."""
    if gpu.capability < (8, 0):
        return WITHOUT_RING[rows]
    two_groups = bool(group_constant(shape) % layout.CHUNK)
    heavy = shape.bits == 8 or two_groups or scales == torch.float32
    known = (HEAVY if heavy else CANDIDATES)[rows]
    if rows == 1 or heavy:
        return known
    # Blocks read x again for every 16 columns they are short of 64: that is what a large layer's
    # time goes to, while a small one's goes to having too few blocks.
    large = shape.in_features * shape.out_features * shape.bits // 8 >= LARGE_BYTES
    return tuple(candidate for candidate in known if (candidate.columns == 4) == large)


@functools.lru_cache(maxsize=4096)
def choose(shape: Shape, rows: int, scales: torch.dtype, gpu: Gpu) -> Cut:
    """The cut with the least predicted time for `rows` rows of x."""
    tiles = 1 if rows <= 8 else 2 if rows <= 16 else 4
    cuts = [
        (_seconds(candidate, split, tiles, shape, scales, gpu), candidate.cut(tiles, split))
        for candidate in candidates(shape, tiles, scales, gpu)
        for split in SPLITS
    ]
    return min(cuts, key=lambda pair: pair[0])[1]


def _seconds(
    candidate: Candidate, split: int, rows: int, shape: Shape, scales: torch.dtype, gpu: Gpu
) -> float:
    """Predicted time: reading W at a rate that falls with idle multiprocessors.

    In a single wave blocks share the memory's rate evenly, however they are spread, so that only
    their number counts; several waves pay for a last one that is not full.
    """
    cut = candidate.cut(rows, split)
    shared = cut.shared_bytes(shape, scales)
    if shared > gpu.bytes_of_block:
        return float("inf")
    resident = min(
        cut.blocks,
        gpu.bytes_of_multiprocessor // (shared + 1024),
        gpu.warps_of_multiprocessor // cut.warps,
    )
    if resident < 1:
        return float("inf")
    blocks = layout.tiles(shape) * (4 // cut.columns) * split
    waves = blocks / (resident * gpu.multiprocessors)
    warps = min(resident * cut.warps, blocks * cut.warps / gpu.multiprocessors)
    enough = ENOUGH_WIDE_WARPS if rows * cut.columns == 16 else ENOUGH_WARPS
    rate = min(1.0, warps / enough) ** (1.0 if warps < FEWEST_WARPS else 0.5)
    if waves > 1.0 and split > 1:
        return float("inf")
    if waves > 1.0:
        rate *= waves / math.ceil(waves) * WAVE_LOSS
    read = shape.in_features * shape.out_features * shape.bits / 8 / BYTES_PER_SECOND
    idle_warps = layout.chunks(shape) < split * cut.warps
    return float(read / (rate * candidate.speed) + SPLIT_SECONDS * (split - 1) + idle_warps)
