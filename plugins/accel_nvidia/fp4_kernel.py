"""The kernel of `probes.mxfp4_matmul`: in a module of its own, for Triton reads its source."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

SIZE = 128
BLOCK = 32
"""Values that share a scale, by the OCP microscaling format."""


# without annotations but those: Triton would look for the others' names among its own
@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _kernel(a, sa, b, sb, out, size: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    whole = tl.arange(0, size)
    half = tl.arange(0, size // 2)
    scales = whole[:, None] * (size // block) + tl.arange(0, size // block)[None, :]
    left = tl.load(a + whole[:, None] * (size // 2) + half[None, :])
    right = tl.load(b + half[:, None] * size + whole[None, :])
    result = tl.dot_scaled(left, tl.load(sa + scales), "e2m1", right, tl.load(sb + scales), "e2m1")
    tl.store(out + whole[:, None] * size + whole[None, :], result)


def product(a: Any, scale_a: Any, b: Any, scale_b: Any) -> Any:
    """The product of two 128 x 128 matrices of e2m1 pairs, two in a byte along the inner dimension.

    `a` is [128, 64] and `b` [64, 128], the scales [128, 4] of e8m0, for `b` by columns.
    """
    out = torch.zeros((SIZE, SIZE), dtype=torch.float32, device=a.device)
    _kernel[(1,)](a, scale_a, b, scale_b, out, size=SIZE, block=BLOCK)
    return out
