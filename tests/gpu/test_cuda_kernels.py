"""The CUDA provider on a real GPU, against float64."""

from __future__ import annotations

import pytest
import torch

import accel_kernels.cuda_provider.provider  # noqa: F401 - registers itself
from accel_kernels import providers
from accel_kernels.cuda_provider import hopper, planning, resident
from accel_kernels.cuda_provider.decoding import decode
from accel_kernels.cuda_provider.planning import Cut
from accel_kernels.formats import QuantizedWeight, from_values
from accel_kernels.ops import quantized_linear
from accel_kernels.providers import Shape

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.version.hip is not None, reason="no NVIDIA GPU"
    ),
]
# bf16: the weight and, on Hopper, zero times scale are rounded too
TOLERANCE = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def weight_of(
    bits: int, k: int, n: int, group: int, *, act_order: bool = False,
    scales: torch.dtype = torch.float16,
) -> QuantizedWeight:  # fmt: skip
    size = k if group == -1 else group
    groups = -(-k // size)
    g_idx = None
    if act_order:
        g_idx = (torch.randperm(k, device="cuda") // size).to(torch.int32)
    return from_values(
        torch.randint(0, 1 << bits, (k, n), device="cuda"),
        torch.randint(0, 1 << bits, (groups, n), device="cuda"),
        (torch.rand(groups, n, device="cuda") + 0.1).to(scales),
        bits=bits,
        group_size=group,
        g_idx=g_idx,
    )


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.detach().double() - expected).norm() / expected.norm().clamp(min=1e-30))


def check(weight: QuantizedWeight, rows: int, dtype: torch.dtype) -> None:
    shape = Shape.of(weight)
    packed = providers.named("cuda").pack(weight)
    exact = weight.dequantize(torch.float64)
    x = torch.randn(rows, shape.in_features, device="cuda", dtype=dtype, requires_grad=True)
    sizes = (shape.bits, shape.group_size, shape.in_features, shape.out_features)
    y = quantized_linear(x, packed, *sizes, "cuda")
    dy = torch.randn_like(y)
    y.backward(dy)
    assert x.grad is not None
    assert y.dtype == dtype
    assert relative(y, x.detach().double() @ exact) < TOLERANCE[dtype]
    assert relative(x.grad, dy.double() @ exact.T) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("rows", [1, 3, 8, 16, 17, 32, 100])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_and_dtypes(bits: int, rows: int, dtype: torch.dtype) -> None:
    check(weight_of(bits, 512, 384, 128), rows, dtype)


@pytest.mark.parametrize("group", [32, 64, 96, 128, 160, -1])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("act_order", [False, True])
def test_group_sizes_and_act_order(bits: int, group: int, act_order: bool) -> None:
    check(weight_of(bits, 480, 200, group, act_order=act_order), 5, torch.float16)


@pytest.mark.parametrize("scales", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("k", [8, 72, 200, 4104])
@pytest.mark.parametrize("n", [1, 31, 65, 264])
def test_odd_sizes_and_dtypes_of_scales(k: int, n: int, scales: torch.dtype) -> None:
    for rows in (2, 9, 40):
        check(weight_of(4, k, n, 32 if k > 32 else -1, scales=scales), rows, torch.bfloat16)


@pytest.mark.parametrize("split", [1, 2, 8])
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_way_of_cutting_gives_the_same_numbers(
    bits: int, columns: int, ring: bool, split: int
) -> None:
    weight = weight_of(bits, 4096, 320, 128)
    shape, packed = Shape.of(weight), providers.named("cuda").pack(weight)
    x = torch.randn(13, 4096, device="cuda", dtype=torch.float16)
    exact = x.double() @ weight.dequantize(torch.float64)
    for warps, ahead in ((4, False), (8, True)):
        cut = Cut(2, columns, warps, 3, split, 1, ahead, ring)
        found = decode(x, packed, shape, cut=cut)
        assert relative(found, exact) < TOLERANCE[torch.float16]
        assert torch.equal(found, decode(x, packed, shape, cut=cut))


needs_hopper = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() != hopper.CAPABILITY,
    reason="wgmma is Hopper's alone",
)


def check_hopper(
    weight: QuantizedWeight, rows: int, dtype: torch.dtype, cut: hopper.Tiling | None = None
) -> None:
    shape, packed = Shape.of(weight), providers.named("cuda").pack(weight)
    exact = weight.dequantize(torch.float64)
    for backward in (False, True):
        factor = exact.T if backward else exact
        x = torch.randn(rows, factor.shape[0], device="cuda", dtype=dtype)
        y = hopper.multiply(x, packed, shape, backward=backward, cut=cut)
        assert relative(y, x.double() @ factor) < TOLERANCE[dtype]
        again = hopper.multiply(x, packed, shape, backward=backward, cut=cut)
        assert torch.equal(y, again)


@needs_hopper
@pytest.mark.parametrize("cluster", [1, 2])
@pytest.mark.parametrize("height", [1, 2])
@pytest.mark.parametrize("tile", [16, 32, 64, 128, 256])
def test_every_cut_for_hopper(tile: int, height: int, cluster: int) -> None:
    if tile == 256 and height == 2:
        pytest.skip("takes more registers than there are")
    check_hopper(
        weight_of(4, 1024, 1536, 128), 300, torch.bfloat16, hopper.Tiling(tile, height, cluster)
    )


@needs_hopper
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("group", [32, 64, 96, 128, 160, -1])
def test_groups_on_hopper(group: int, dtype: torch.dtype) -> None:
    check_hopper(weight_of(4, 480, 200, group), 40, dtype)
    check_hopper(weight_of(4, 480, 1000, group), 300, dtype)


@needs_hopper
@pytest.mark.parametrize("scales", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("k", "n"), [(8, 8), (72, 8), (840, 264), (4104, 64), (64, 4096)])
def test_odd_sizes_on_hopper(k: int, n: int, scales: torch.dtype) -> None:
    for rows in (1, 20, 130):
        check_hopper(weight_of(4, k, n, 32 if k > 32 else -1, scales=scales), rows, torch.bfloat16)


@needs_hopper
def test_two_streams_at_once_do_not_share_their_sums() -> None:
    weight = weight_of(4, 4096, 512, 128)
    shape, packed = Shape.of(weight), providers.named("cuda").pack(weight)
    inputs = [torch.randn(64, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    expected = [hopper.multiply(x, packed, shape) for x in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    for _ in range(50):
        found = []
        for x, stream in zip(inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(hopper.multiply(x, packed, shape))
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@needs_hopper
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scales", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("k", "n", "group"),
    [
        (1024, 4352, 64), (1096, 4608, 128), (3584, 3584, 128), (4096, 4104, -1),
        (3584, 37888, 128), (8192, 10240, 128), (2048, 152064, 64),
    ],
)  # fmt: skip
def test_x_that_stays_in_shared_memory(
    k: int, n: int, group: int, scales: torch.dtype, dtype: torch.dtype
) -> None:
    weight = weight_of(4, k, n, group, scales=scales)
    shape, packed = Shape.of(weight), providers.named("cuda").pack(weight)
    exact = weight.dequantize(torch.float64)
    served = 0
    for rows in (1, 5, 8, 9, 16):
        cut = resident.choose(shape, rows, scales, planning.gpu(0))
        if cut is None:
            continue
        served += 1
        x = torch.randn(rows, k, device="cuda", dtype=dtype)
        y = decode(x, packed, shape)
        assert relative(y, x.double() @ exact) < TOLERANCE[dtype]
        assert torch.equal(y, decode(x, packed, shape))
    assert served


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_dequantising_rounds_once(bits: int, dtype: torch.dtype) -> None:
    weight = weight_of(bits, 456, 200, 32, act_order=True)
    packed = providers.named("cuda").pack(weight)
    found = providers.named("cuda").dequantize(packed, Shape.of(weight), dtype)
    assert torch.equal(found, weight.dequantize(dtype))


def test_slabs_cover_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel_kernels.cuda_provider.dense.SLAB_BYTES", 1 << 16)
    check(weight_of(4, 328, 456, 32), planning.FEW_ROWS + 40, torch.float32)


def test_a_graph_replays_what_was_captured() -> None:
    weight = weight_of(4, 1024, 512, 128)
    shape, packed = Shape.of(weight), providers.named("cuda").pack(weight)
    x = torch.randn(4, 1024, device="cuda", dtype=torch.float16)
    providers.named("cuda").forward(x, packed, shape)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = providers.named("cuda").forward(x, packed, shape)
    x.copy_(torch.randn_like(x))
    y.fill_(float("nan"))
    graph.replay()
    exact = x.double() @ weight.dequantize(torch.float64)
    assert relative(y, exact) < TOLERANCE[torch.float16]


def test_numbers_beyond_fp16_stay_right_in_float32() -> None:
    weight = weight_of(4, 256, 64, 64)
    shape, packed = Shape.of(weight), providers.named("cuda").pack(weight)
    x = torch.randn(3, 256, device="cuda") * torch.tensor([[1e30], [1e-30], [0.0]], device="cuda")
    y = providers.named("cuda").forward(x, packed, shape)
    exact = x.double() @ weight.dequantize(torch.float64)
    for row in range(3):
        assert relative(y[row], exact[row]) < TOLERANCE[torch.float32]
    x[1, 7] = float("nan")
    assert providers.named("cuda").forward(x, packed, shape)[1].isnan().all()
