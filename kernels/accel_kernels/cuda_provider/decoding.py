"""y = x W for few rows of x."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from accel_kernels.cuda_provider import layout, resident
from accel_kernels.cuda_provider.compiling import Program
from accel_kernels.cuda_provider.launch import function
from accel_kernels.cuda_provider.planning import Cut, choose, decode_program, gpu, grid
from accel_kernels.providers import Shape

COMBINE_THREADS = 256


def decode(
    x: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape,
    out: torch.dtype | None = None, cut: Cut | None = None,
) -> torch.Tensor:  # fmt: skip
    """x [M, K] fp16 or bf16, contiguous, times W; in `out` (float32 or x's own dtype)."""
    words, zeros, scales = packed[:3]
    rows, k, n = x.shape[0], shape.in_features, shape.out_features
    device = x.device.index
    if cut is None and out is None:
        kept = resident.choose(shape, rows, scales.dtype, gpu(device))
        if kept is not None:
            return resident.multiply(x, packed, shape, kept)
    capability = torch.cuda.get_device_capability(device)
    cut = cut or choose(shape, rows, scales.dtype, gpu(device))
    y = torch.empty(rows, n, dtype=out or x.dtype, device=x.device)
    program = decode_program(
        cut, shape, scales.dtype, capability,
        bfloat=x.dtype == torch.bfloat16, float_out=y.dtype == torch.float32,
    )  # fmt: skip
    constants = dict(program.constants)
    parts = None
    if cut.split > 1 and not constants["CLUSTER"]:
        parts = torch.empty(cut.split, rows, n, dtype=torch.float32, device=x.device)
    with torch.cuda.device(device):
        shared = cut.shared_bytes(shape, scales.dtype)
        kernel = function(program, "decode", device, shared, bool(constants["EARLY"]))
        arguments = [
            x, words, scales, zeros, y, parts, rows, n, k, layout.chunks(shape),
            layout.groups(shape),
        ]  # fmt: skip
        kernel(grid(cut, shape, rows), cut.warps * 32, shared, arguments)
        if parts is not None:
            _combine(program, parts, y)
    return y


def _combine(program: Program, parts: torch.Tensor, y: torch.Tensor) -> None:
    kernel = function(program, "combine", y.device.index)
    blocks = -(-y.numel() // COMBINE_THREADS)
    kernel((blocks, 1, 1), COMBINE_THREADS, 0, [parts, y, y.numel()])
