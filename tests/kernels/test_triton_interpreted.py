"""The Triton kernels' arithmetic against float64, in Triton's interpreter on the CPU.

Runs where `TRITON_INTERPRET=1` was set before Triton was imported: `test_triton_provider.py` runs
this file in a process of its own with it.
"""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch

from accel_kernels.formats import QuantizedWeight
from accel_kernels.providers import Shape
from test_formats import random_weight
from test_ops import relative

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in a process with TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton", reason="triton is not installed")

from accel_kernels.triton_provider.configs import Config
from accel_kernels.triton_provider.provider import TritonProvider, _call, multiply

# Triton's interpreter itself converts arrays to scalars in a way that numpy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
# The interpreter multiplies no bfloat16, and truncates where it should round to it: `tests/gpu` and
# the benchmark check bfloat16.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}
HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32


def made(
    bits: int, k: int, n: int, group: int, act: bool, scales: torch.dtype = HALF
) -> QuantizedWeight:
    weight = random_weight(bits, k, n, group, act_order=act)
    return dataclasses.replace(weight, scales=weight.scales.to(scales))


def run(
    weight: QuantizedWeight, rows: int, dtype: torch.dtype, config: Config | None, backward: bool
) -> float:
    """The relative error of one product."""
    provider, shape = TritonProvider(), Shape.of(weight)
    packed = provider.pack(weight)
    exact = weight.dequantize(torch.float64)
    exact = exact.T if backward else exact
    a = torch.randn(rows, exact.shape[0]).to(dtype)
    if config is not None:
        product = "backward" if backward else "forward"
        found = multiply(product, a, _call(packed, shape, a.device), config)
    else:
        found = (provider.backward if backward else provider.forward)(a, packed, shape)
    assert found.dtype == dtype
    assert found.shape == (rows, exact.shape[1])
    return relative(found, a.double() @ exact)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("bits", "k", "n", "group", "act", "rows", "dtype", "scales"),
    [
        (4, 256, 128, 128, False, 1, HALF, HALF),
        (4, 256, 192, 64, False, 3, HALF, HALF),
        (4, 144, 72, 16, False, 17, HALF, BRAIN),  # nothing is a whole tile
        (4, 192, 64, 96, False, 9, HALF, HALF),  # groups that no tile divides
        (4, 128, 64, -1, False, 33, HALF, FULL),
        (4, 256, 64, 32, True, 2, HALF, HALF),
        (8, 160, 64, 32, False, 5, HALF, HALF),
        (8, 128, 128, -1, True, 16, HALF, BRAIN),
        (2, 256, 64, 64, False, 4, HALF, HALF),
        (2, 128, 64, 128, False, 65, HALF, FULL),
        (4, 128, 128, 64, False, 5, FULL, HALF),
        (8, 96, 64, 16, True, 3, FULL, BRAIN),
    ],
)
def test_default_configurations(
    bits: int, k: int, n: int, group: int, act: bool, rows: int, dtype: torch.dtype,
    scales: torch.dtype, backward: bool,
) -> None:  # fmt: skip
    weight = made(bits, k, n, group, act, scales)
    assert run(weight, rows, dtype, None, backward) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("config", "backward"),
    [
        (Config(block_m=16, block_n=64, block_k=64, splits=1), False),
        (Config(block_m=16, block_n=64, block_k=64, splits=3, post=True), False),
        (Config(block_m=16, block_n=128, block_k=128, splits=2), False),
        (Config(block_m=16, block_n=128, block_k=64, splits=16), False),
        (Config(block_m=16, block_n=64, block_k=64, splits=1), True),
        (Config(block_m=16, block_n=64, block_k=128, splits=2), True),
        (Config(slab=128), False),
        (Config(slab=128), True),
    ],
)
def test_every_way_to_cut_gives_the_product(config: Config, backward: bool) -> None:
    weight = made(4, 320, 256, 64, False)
    assert run(weight, 20, HALF, config, backward) < TOLERANCE[HALF]
    assert run(weight, 20, HALF, config, backward) < TOLERANCE[HALF]  # the counters are 0 again


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("act", [False, True])
def test_dequantizing_is_exact(bits: int, act: bool) -> None:
    weight = made(bits, 144, 72, 16, act)
    provider = TritonProvider()
    packed = provider.pack(weight)
    for dtype in (FULL, HALF, torch.float64):
        found = provider.dequantize(packed, Shape.of(weight), dtype)
        assert torch.equal(found, weight.dequantize().to(dtype))


def test_no_rows_are_no_rows() -> None:
    weight = made(4, 128, 64, 64, False)
    provider, shape = TritonProvider(), Shape.of(weight)
    packed = provider.pack(weight)
    assert provider.forward(torch.empty(0, 128), packed, shape).shape == (0, 64)
    assert provider.backward(torch.empty(0, 64), packed, shape).shape == (0, 128)
