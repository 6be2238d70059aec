"""Probes of what no other vendor's plugin asks for: matmuls of 4-bit floating point.

Each computes on numbers that the format holds exactly, so that the result must be exact: forward
only, since weights in 4 bits have no gradient.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

from accel.probes.measuring import Refused, error_of, line, ms_since, there

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the three bits below the sign stand for."""


def nvfp4_matmul(device: str, size: int = 256) -> str:
    """torch's scaled product of NVFP4 matrices: e2m1 values, an e4m3 scale for each 16 of them."""
    import torch

    if not hasattr(torch, "float4_e2m1fn_x2"):
        raise Refused("this torch has no NVFP4", remedy='pip install "torch>=2.8"')
    begin = time.perf_counter()
    (a, true_a), (b, true_b) = (_codes(size, seed) for seed in (0, 1))
    # One scale for all: torch wants scales in a layout of tiles, in which equal ones lie anyhow.
    scale = torch.full((size * size // 16,), 0.5, device=device).to(torch.float8_e4m3fn)
    kind = torch.float4_e2m1fn_x2
    got = torch._scaled_mm(
        a.to(device).view(kind),
        b.to(device).view(kind).t(),
        scale,
        scale,
        out_dtype=torch.bfloat16,
    )
    return _verdict("nvfp4", got, true_a @ true_b.t() / 4, device, size, begin)


def mxfp4_matmul(device: str) -> str:
    """Triton's scaled product of MXFP4 matrices: e2m1 values, a power of two for each 32 of them.

    Triton also computes it on cores that have no such format, by way of bfloat16.
    """
    import torch

    kernel = importlib.import_module("accel_nvidia.fp4_kernel")
    size = int(kernel.SIZE)
    begin = time.perf_counter()
    (a, true_a), (b, true_b) = (_codes(size, seed) for seed in (0, 1))
    powers = torch.arange(size * size // kernel.BLOCK).reshape(size, -1) % 3  # 1, 2 and 4
    scale = (powers + 127).to(torch.uint8).to(device)
    by_value = (2.0**powers).double().repeat_interleave(kernel.BLOCK, dim=1)
    got = kernel.product(a.to(device), scale, b.to(device).t().contiguous(), scale)
    wanted = (true_a * by_value) @ (true_b * by_value).t()
    return _verdict("mxfp4", got, wanted, device, size, begin)


def _codes(size: int, seed: int) -> tuple[Any, Any]:
    """Random e2m1 values, two in a byte, the first lower; and what they stand for, in float64."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (size, size), generator=generator)
    values = torch.tensor([*_E2M1, *(-value for value in _E2M1)], dtype=torch.float64)
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8)
    return packed, values[codes]


def _verdict(what: str, got: Any, wanted: Any, device: str, size: int, begin: float) -> str:
    import torch

    # The sums are exact in float32; a bfloat16 result is rounded once.
    allowed = 2**-8 if got.dtype is torch.bfloat16 else 1e-6
    error = error_of(f"the {what} product", there(got, device), wanted, allowed)
    return line(f"{what} matmul {size}x{size}", error, ms_since(begin), "forward")
