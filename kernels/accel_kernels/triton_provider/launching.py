"""Launches the kernels. Imports Triton, so it is imported at the first call and not before."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import triton
import triton.language as tl

from accel_kernels.providers import Shape
from accel_kernels.triton_provider import kernels
from accel_kernels.triton_provider.configs import Config
from accel_kernels.triton_provider.layout import ROWS, Packed, chunk_inputs
from accel_kernels.triton_provider.locks import locks_for

DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
CANNOT_RUN = (RuntimeError, triton.runtime.errors.OutOfResources, triton.runtime.errors.PTXASError)
"""What a configuration raises that asks for more than the device has."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One weight as the kernels take it."""

    packed: Packed
    shape: Shape
    ptx: bool

    @property
    def group(self) -> int:
        """0 for one group over all of K."""
        return 0 if self.packed.groups == 1 else self.shape.group_size

    def constants(self, dtype: torch.dtype, config: Config) -> dict[str, Any]:
        """The compile-time arguments that the kernels share."""
        return {
            "BITS": self.shape.bits,
            "GROUP": self.group,
            "SCALE": DTYPES[self.packed.marker.dtype],
            "DTYPE": DTYPES[dtype],
            "KB": config.block_k // chunk_inputs(self.shape.bits),
        }


def linear(x: torch.Tensor, call: Call, config: Config) -> torch.Tensor:
    """x [M, K] W: [M, N]; x contiguous, float16 or bfloat16."""
    rows, outputs, inputs = x.shape[0], call.shape.out_features, call.shape.in_features
    y = x.new_empty(rows, outputs)
    n_tiles = math.ceil(outputs / config.block_n)
    m_tiles = math.ceil(rows / config.block_m)
    steps, splits = _share(math.ceil(inputs / config.block_k), config.splits)
    partial, locks = _workspace(x, n_tiles * m_tiles, splits, config.block_n * config.block_m)
    kernels.linear[(n_tiles * m_tiles * splits,)](
        x, call.packed.words, call.packed.meta, y, partial, locks, rows, outputs, inputs,
        call.packed.n_padded, call.packed.k_chunks, call.packed.groups,
        steps, splits, n_tiles, m_tiles,
        NB=config.block_n // ROWS, BM=config.block_m, SPLIT=splits > 1, POST=config.post,
        PTX=call.ptx, EVEN_K=inputs % config.block_k == 0,
        num_warps=config.warps, num_stages=config.stages,
        **call.constants(x.dtype, config),
    )  # fmt: skip
    return y


def gradient(dy: torch.Tensor, call: Call, config: Config) -> torch.Tensor:
    """dy [M, N] W^T: [M, K]; dy contiguous, float16 or bfloat16."""
    rows, outputs, inputs = dy.shape[0], call.shape.out_features, call.shape.in_features
    dx = dy.new_empty(rows, inputs)
    k_tiles = math.ceil(inputs / config.block_k)
    m_tiles = math.ceil(rows / config.block_m)
    steps, splits = _share(math.ceil(outputs / config.block_n), config.splits)
    partial, locks = _workspace(dy, k_tiles * m_tiles, splits, config.block_k * config.block_m)
    kernels.gradient[(k_tiles * m_tiles * splits,)](
        dy, call.packed.words, call.packed.meta, dx, partial, locks, rows, outputs, inputs,
        call.packed.n_padded, call.packed.k_chunks, call.packed.groups,
        steps, splits, k_tiles, m_tiles,
        NB=config.block_n // ROWS, BM=config.block_m, SPLIT=splits > 1, PTX=call.ptx,
        num_warps=config.warps, num_stages=config.stages,
        **call.constants(dy.dtype, config),
    )  # fmt: skip
    return dx


def dequantize_into(
    out: torch.Tensor, call: Call, first_n: int, first_k: int, config: Config
) -> None:
    """W^T [first_n : first_n + rows of out, first_k : first_k + columns of out] into `out`."""
    last_n, last_k = first_n + out.shape[0], first_k + out.shape[1]
    k_tiles = math.ceil(out.shape[1] / config.block_k)
    kernels.dequantize[(math.ceil(out.shape[0] / ROWS) * k_tiles,)](
        call.packed.words, call.packed.meta, out, first_n, first_k, last_n, last_k, out.stride(0),
        call.packed.n_padded, call.packed.k_chunks, call.packed.groups, k_tiles,
        num_warps=config.warps, num_stages=1,
        **call.constants(out.dtype, config),
    )  # fmt: skip


def _share(steps: int, splits: int) -> tuple[int, int]:
    """Steps a split, and the splits that then have any."""
    each = math.ceil(steps / max(1, splits))
    return each, math.ceil(steps / each)


def _workspace(
    like: torch.Tensor, tiles: int, splits: int, tile: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for partial sums and zeroed counters; placeholders where nothing is split."""
    if splits == 1:
        nothing = like.new_empty(0, dtype=torch.float32)
        return nothing, nothing.view(torch.int32)
    partial = like.new_empty(tiles * splits * tile, dtype=torch.float32)
    return partial, locks_for(like.device, tiles)


def interpreted() -> bool:
    """Whether Triton runs kernels on the CPU, for tests (`TRITON_INTERPRET=1`)."""
    return bool(triton.knobs.runtime.interpret)
