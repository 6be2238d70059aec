"""y = x W and dX = dY W^T for many rows on Hopper, by kernels/hopper.cu, which explains itself."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import itertools
from collections.abc import Sequence

import torch

from accel_kernels.cuda_provider import layout
from accel_kernels.cuda_provider.compiling import Program
from accel_kernels.cuda_provider.launch import Launch, Structure, driver_call, function
from accel_kernels.cuda_provider.planning import SCALE_KINDS, gpu, group_constant
from accel_kernels.providers import Shape

CAPABILITY = (9, 0)
ALIGNMENT = 1024
SLACK = 2 * ALIGNMENT
"""Bytes of a block's shared memory left for barriers and for aligning the rest."""
WARPGROUPS, MOST_STAGES = 2, 12
FEWEST_ROWS = {False: 17, True: 1}
MOST_ROWS = {False: 6144, True: 3072}
"""Rows of x, forward and backward. With fewer the decode kernel is faster; with more, expanding W
once costs less than the power that expanding it for every tile takes from the matrix units."""
MANY_TILES = 64
EVEN_ENOUGH = 0.9
FLAGS, FLAG_PLACES = 1024, 1024
"""Flags of a launch, more than any GPU has warpgroups; and launches that have their own."""

_BFLOAT16, _FLOAT16 = 9, 6  # CU_TENSOR_MAP_DATA_TYPE
_SWIZZLE_128B = 3
_L2_256B = 3
_MAP_BYTES, _MAP_ALIGNMENT = 128, 64


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Constants of kernels/hopper.cu that do not follow from the weight."""

    rows: int
    height: int
    cluster: int = 1

    @property
    def span(self) -> int:
        """Features of one side of W that a block multiplies."""
        return 64 * self.pieces

    @property
    def pieces(self) -> int:
        """The same in pieces of 64."""
        return self.height * WARPGROUPS

    def stage_bytes(self, shape: Shape, scales: torch.dtype, *, backward: bool) -> int:
        """Shared memory of one piece of the sum on its way."""
        group = group_constant(shape)
        if backward:
            group_rows = self.span // group + 2 if group else 1
        else:
            group_rows = self.pieces * (2 if group % layout.CHUNK else 1)
        used = self.rows * 128 + self.pieces * 2048 + group_rows * (64 * scales.itemsize + 32)
        return int(-(-used // ALIGNMENT) * ALIGNMENT)

    @property
    def out_bytes(self) -> int:
        return self.pieces * self.rows * 128


def serves(x: torch.Tensor, scales: torch.Tensor, shape: Shape, *, backward: bool = False) -> bool:
    """Whether this product is computed here; measured on an H100 where another way exists."""
    if shape.bits != 4 or _capability(x.device) != CAPABILITY:
        return False
    if shape.in_features % 8 or shape.out_features % 8:
        return False  # TMA takes rows of whole 16 bytes
    if x.dtype == torch.float16 and scales.dtype != torch.float16:
        return False
    if x.dtype not in (torch.float16, torch.bfloat16):
        return False
    return bool(FEWEST_ROWS[backward] <= x.shape[0] <= MOST_ROWS[backward])


@functools.lru_cache(maxsize=64)
def _capability(device: torch.device) -> tuple[int, int]:
    major, minor = torch.cuda.get_device_capability(device)
    return major, minor


def tiling(rows: int, pieces: int) -> Tiling:
    """The cut for that many rows of x, and a product of `pieces` times 64 rows.

    Taller tiles expand less and read x less often, but with few of them multiprocessors wait for
    one another's parts of the sum.
    """
    for few in (16, 32, 64, 128):
        if rows <= few:
            return Tiling(few, height=2 if pieces >= 4 * MANY_TILES else 1)
    many = -(-rows // 256) * pieces >= 2 * MANY_TILES
    return Tiling(256 if many else 128, height=1)


def clusters_for(tiles: int, depth: int, most: int) -> int:
    """How many clusters share `tiles` tiles of `depth` pieces each.

    All of them, unless nearly as many give each tile to the same number of clusters: then none has
    parts of two tiles.
    """
    even = most // tiles * tiles
    return min(even if even >= EVEN_ENOUGH * most else most, tiles * depth)


def program_of(
    cut: Tiling, shape: Shape, dtype: torch.dtype, scales: torch.dtype, most_shared: int, *,
    backward: bool,
) -> tuple[Program, int]:  # fmt: skip
    """The kernel, and its block's bytes of dynamic shared memory, which fit `most_shared`."""
    stage = cut.stage_bytes(shape, scales, backward=backward)
    stages = min(MOST_STAGES, (most_shared - SLACK - cut.out_bytes) // stage)
    program = Program.of(
        "hopper.cu", variant="a", BF16=int(dtype == torch.bfloat16), BITS=4,
        GROUP=group_constant(shape), SCALE=SCALE_KINDS[scales], BACKWARD=int(backward),
        M_TILE=cut.rows, HEIGHT=cut.height, STAGES=stages, CLUSTER=cut.cluster, EARLY=1,
    )  # fmt: skip
    return program, stages * stage + cut.out_bytes + ALIGNMENT


@functools.lru_cache(maxsize=4096)
def prepared(
    shape: Shape, rows: int, dtype: torch.dtype, scales: torch.dtype, device: int,
    backward: bool, cut: Tiling | None,
) -> tuple[Tiling, Launch]:  # fmt: skip
    """The cut, and its kernel, compiled and loaded, and its grid."""
    chunks, tiles = layout.chunks(shape), layout.tiles(shape)
    across, depth = (chunks, tiles) if backward else (tiles, chunks)
    cut = cut or tiling(rows, across)
    limits = gpu(device)
    program, shared = program_of(
        cut, shape, dtype, scales, limits.bytes_of_block, backward=backward
    )
    tiles_of_y = -(-across // (cut.pieces * cut.cluster)) * -(-rows // cut.rows)
    clusters = clusters_for(tiles_of_y, depth, limits.multiprocessors // cut.cluster)
    kernel = function(program, "multiply_tiles", device, shared, early=True)
    sizes = (rows, shape.out_features, shape.in_features, chunks, tiles, layout.groups(shape))
    return cut, Launch(kernel, clusters * cut.cluster, shared, sizes)


def multiply(
    x: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape, *, backward: bool = False,
    cut: Tiling | None = None,
) -> torch.Tensor:  # fmt: skip
    """x [M, K] W, or with `backward` x [M, N] W transposed; fp16 or bf16, summed in fp32.

    W is rounded to the dtype of x. `x` is contiguous and its address a multiple of 16.
    """
    words, zeros, scales = packed[:3]
    rows, device = x.shape[0], x.device.index
    features = shape.in_features if backward else shape.out_features
    chosen, launch = prepared(shape, rows, x.dtype, scales.dtype, device, backward, cut)
    y = torch.empty(rows, features, dtype=x.dtype, device=x.device)
    parts = torch.empty(
        launch.blocks * chosen.span * chosen.rows, dtype=torch.float32, device=x.device
    )
    arguments = [
        tensor_map(device, x.data_ptr(), rows, x.shape[1], chosen.rows // chosen.cluster, x.dtype),
        tensor_map(device, y.data_ptr(), rows, features, chosen.rows, x.dtype),
        words, scales, zeros, parts, _flags(device), *launch.sizes,
    ]  # fmt: skip
    with torch.cuda.device(device):
        threads = 128 * WARPGROUPS + 128
        launch.kernel((launch.blocks, 1, 1), threads, launch.shared_bytes, arguments)
    return y


@functools.lru_cache(maxsize=4096)
def tensor_map(
    device: int, address: int, rows: int, columns: int, box: int, dtype: torch.dtype
) -> Structure:
    """How TMA reads or writes boxes of [box, 64] of a contiguous [rows, columns]."""
    buffer = ctypes.create_string_buffer(_MAP_BYTES + _MAP_ALIGNMENT)
    skipped = -ctypes.addressof(buffer) % _MAP_ALIGNMENT
    driver_call(
        device, "cuTensorMapEncodeTiled", ctypes.c_void_p(ctypes.addressof(buffer) + skipped),
        _BFLOAT16 if dtype == torch.bfloat16 else _FLOAT16, 2, ctypes.c_void_p(address),
        (ctypes.c_uint64 * 2)(columns, rows), (ctypes.c_uint64 * 1)(columns * dtype.itemsize),
        (ctypes.c_uint32 * 2)(64, box), (ctypes.c_uint32 * 2)(1, 1),
        0, _SWIZZLE_128B, _L2_256B, 0,
    )  # fmt: skip
    return Structure(buffer.raw[skipped : skipped + _MAP_BYTES])


_turns = itertools.count()


def _flags(device: int) -> torch.Tensor:
    """Lowered flags, enough for any grid, that no other running kernel uses.

    A kernel lowers the flags it raises. Calls take theirs in turn, captured ones included, from far
    more than there can be kernels running at once.
    """
    places = _flag_places(device)
    return places[next(_turns) % len(places)]


@functools.lru_cache(maxsize=64)
def _flag_places(device: int) -> tuple[torch.Tensor, ...]:
    made = torch.zeros(FLAG_PLACES, FLAGS, dtype=torch.int32, device=f"cuda:{device}")
    return tuple(made.unbind(0))
