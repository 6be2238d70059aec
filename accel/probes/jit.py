"""The kernel of `accel.probes.triton_jit`: in a module of its own, for Triton reads its source."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

SIZE = 32


# without annotations but that one: Triton would look for the others' names among its own
@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _kernel(a, b, out, size: tl.constexpr):  # type: ignore[no-untyped-def]
    rows = tl.arange(0, size)[:, None] * size + tl.arange(0, size)[None, :]
    tl.store(out + rows, tl.dot(tl.load(a + rows), tl.load(b + rows)) + 1.0)


def product(a: Any, b: Any) -> Any:
    """a b + 1 of two contiguous float16 matrices, 32 x 32; the result is float32."""
    out = torch.zeros((SIZE, SIZE), dtype=torch.float32, device=a.device)
    _kernel[(1,)](a, b, out, size=SIZE)
    return out
