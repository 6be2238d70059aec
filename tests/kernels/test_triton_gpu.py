"""The Triton provider on a real GPU: every format, dtype and class of M against float32."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from accel_kernels.formats import QuantizedWeight
from accel_kernels.providers import Shape
from accel_kernels.triton_provider import TritonProvider
from accel_kernels.triton_provider.provider import device_refusal
from test_formats import random_weight
from test_ops import relative

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("no GPU that torch can use", allow_module_level=True)
if device_refusal(torch.device("cuda")) is not None:
    pytest.skip(str(device_refusal(torch.device("cuda"))), allow_module_level=True)

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}
ROWS = (1, 16, 30, 64, 200, 600)


def weight_of(bits: int, k: int, n: int, group: int, act: bool) -> QuantizedWeight:
    return random_weight(bits, k, n, group, act_order=act).to("cuda")


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    ("bits", "k", "n", "group", "act"),
    [
        (4, 1024, 1536, 128, False),
        (4, 576, 320, 64, False),
        (4, 1000, 200, 16, True),
        (4, 768, 256, 96, False),
        (4, 512, 192, -1, False),
        (4, 512, 192, 32, True),
        (8, 512, 384, 128, False),
        (8, 480, 256, 32, True),
        (2, 1024, 256, 64, False),
        (2, 512, 256, -1, True),
    ],
)
def test_products_in_every_format(
    bits: int, k: int, n: int, group: int, act: bool, dtype: torch.dtype
) -> None:
    provider, weight = TritonProvider(), weight_of(bits, k, n, group, act)
    packed, shape = provider.pack(weight), Shape.of(weight)
    exact = weight.dequantize(torch.float64)
    for rows in ROWS:
        x = torch.randn(rows, k, device="cuda").to(dtype)
        dy = torch.randn(rows, n, device="cuda").to(dtype)
        y, dx = provider.forward(x, packed, shape), provider.backward(dy, packed, shape)
        assert (y.dtype, dx.dtype) == (dtype, dtype)
        assert relative(y, x.double() @ exact) < TOLERANCE[dtype], rows
        assert relative(dx, dy.double() @ exact.T) < TOLERANCE[dtype], rows


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_dequantizing_is_exact(bits: int) -> None:
    provider, weight = TritonProvider(), weight_of(bits, 528, 200, 16, True)
    packed = provider.pack(weight)
    for dtype in TOLERANCE:
        found = provider.dequantize(packed, Shape.of(weight), dtype)
        assert torch.equal(found, weight.dequantize().to(dtype))


def test_the_same_bits_come_out_every_time_also_from_graphs_beside_each_other() -> None:
    provider, weight = TritonProvider(), weight_of(4, 4096, 1024, 128, False)
    packed, shape = provider.pack(weight), Shape.of(weight)
    x = torch.randn(16, 4096, device="cuda", dtype=torch.bfloat16)
    first = provider.forward(x, packed, shape)
    streams = [torch.cuda.Stream() for _ in range(2)]
    graphs, outputs = [], []
    for _ in streams:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs.append([provider.forward(x, packed, shape) for _ in range(8)])
        graphs.append(graph)
    for _ in range(20):
        for stream, graph in zip(streams, graphs, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(first, found) for group in outputs for found in group)


def test_scales_of_32_bits() -> None:
    provider, weight = TritonProvider(), weight_of(4, 512, 256, 64, False)
    weight = dataclasses.replace(weight, scales=weight.scales.float() * 1.0001)
    x = torch.randn(3, 512, device="cuda", dtype=torch.bfloat16)
    found = provider.forward(x, provider.pack(weight), Shape.of(weight))
    assert relative(found, x.double() @ weight.dequantize(torch.float64)) < 5e-3
