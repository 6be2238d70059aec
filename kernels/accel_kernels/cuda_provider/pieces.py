"""Activations that the tensor cores cannot take as they are, as a sum of fp16 numbers.

Each row is scaled by a power of two so that its largest value is below 1, then written as
high + low / 2**11 in fp16: 22 bits in all, which leaves a float32 product its precision.
"""

from __future__ import annotations

import torch

LOW_SHIFT = 11


def split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [M, K] -> fp16 [2 M, K], high parts, then low ones; and exponents int32 [M, 1]."""
    wide = x.to(torch.float32)
    largest = wide.abs().amax(dim=1, keepdim=True)
    exponent = torch.frexp(largest).exponent
    # What is not finite has no exponent, and comes out as not finite whatever the scale.
    exponent = torch.where(largest.isfinite(), exponent, torch.zeros_like(exponent))
    scaled = torch.ldexp(wide, -exponent)
    high = scaled.to(torch.float16)
    low = torch.ldexp(scaled - high.to(torch.float32), torch.tensor(LOW_SHIFT, device=x.device))
    return torch.cat([high, low.nan_to_num(0.0, 0.0, 0.0).to(torch.float16)]), exponent


def join(y: torch.Tensor, exponent: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 products [2 M, N] of the parts -> [M, N] in `dtype`."""
    high, low = y.chunk(2)
    whole = high + torch.ldexp(low, torch.tensor(-LOW_SHIFT, device=y.device))
    return torch.ldexp(whole, exponent).to(dtype)
