"""The slabs of the many-rows path: every feature once, and the blocks that are asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_kernels.cuda_provider import dense, layout
from accel_kernels.providers import Shape
from test_formats import random_weight


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 9),
    k=st.integers(1, 40).map(lambda eighths: 8 * eighths),
    n=st.integers(1, 300),
    slab=st.sampled_from([1, 1 << 13, 1 << 16, 1 << 20]),
    many=st.booleans(),
)
def test_slabs_cover_every_feature_once(rows: int, k: int, n: int, slab: int, many: bool) -> None:
    weight = random_weight(4, k, n, -1)
    shape, whole = Shape.of(weight), weight.dequantize(torch.float64).t()

    def write(out: torch.Tensor, packed: Any, shape: Shape, **where: int) -> None:
        row = where.get("first_tile", 0) * layout.TILE
        column = where.get("first_chunk", 0) * layout.CHUNK
        assert out.is_contiguous()
        out.copy_(whole[row : row + out.shape[0], column : column + out.shape[1]])

    x, dy = torch.randn(rows, k).double(), torch.randn(rows, n).double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "write", write)
        patch.setattr(dense, "SLAB_BYTES", slab)
        patch.setattr(dense, "MANY_ROWS", 1 if many else 100)
        assert torch.allclose(dense.forward(x, [], shape), x @ whole.t())
        assert torch.allclose(dense.backward(dy, [], shape), dy @ whole)
