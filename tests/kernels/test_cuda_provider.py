"""The whole provider on the CPU: its own host code, with the emulator in the driver's place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import ptx
from accel_kernels import providers
from accel_kernels.cuda_provider import (
    compiling,
    decoding,
    dense,
    hopper,
    nvrtc,
    planning,
    provider,
    resident,
)
from accel_kernels.cuda_provider.compiling import Program
from accel_kernels.cuda_provider.planning import Gpu
from accel_kernels.ops import quantized_linear
from accel_kernels.providers import Shape
from test_formats import random_weight

pytestmark = pytest.mark.skipif(
    not list(nvrtc.candidates()), reason="no NVRTC here: pip install nvidia-cuda-nvrtc"
)
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 6e-3, torch.float32: 3e-6}
CAPABILITIES = {"turing": (7, 5), "ampere": (8, 0), "hopper": (9, 0)}


@pytest.fixture(params=list(CAPABILITIES))
def emulator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The provider sees a GPU of few multiprocessors; the names of the kernels that it launched."""
    capability = CAPABILITIES[request.param]
    launched: list[str] = []

    def function(
        program: Program, name: str, device: Any, shared: int = 0, early: bool = False
    ) -> Callable[..., None]:
        code, _ = compiling.compile_for(program, f"compute_{capability[0]}{capability[1]}")

        def launch(
            grid: tuple[int, int, int], threads: int, shared_bytes: int, arguments: Sequence[Any]
        ) -> None:
            assert shared_bytes == shared
            assert early == bool(dict(program.constants).get("EARLY")) or name == "combine"
            launched.append(name)
            ptx.run(code.rstrip(b"\0").decode(), name, grid, threads, shared_bytes, arguments)

        return launch

    for module in (decoding, dense, resident):
        monkeypatch.setattr(module, "function", function)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    small = Gpu(capability, 2, 99 << 10, 100 << 10, 48)
    for module in (decoding, resident):
        monkeypatch.setattr(module, "gpu", lambda device: small)
    resident.prepared.cache_clear()
    monkeypatch.setattr(planning, "FEW_ROWS", 9)
    # wgmma and TMA are not emulated: tests/gpu has those
    monkeypatch.setattr(hopper, "serves", lambda *arguments, **backward: False)
    return launched


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.detach().double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("bits", "dtype", "rows", "act", "kernel"),
    [
        (4, torch.bfloat16, 2, False, "decode"),
        (4, torch.float16, 9, True, "decode"),
        (4, torch.float32, 1, False, "decode"),
        (8, torch.float16, 1, False, "decode"),
        (4, torch.float32, 11, True, "dequantize"),
    ],
)
def test_forward_and_gradient(
    emulator: list[str], bits: int, dtype: torch.dtype, rows: int, act: bool, kernel: str
) -> None:
    weight = random_weight(bits, 192, 72, 64, act_order=act)
    shape = Shape.of(weight)
    packed = providers.named("cuda").pack(weight)
    x = torch.randn(rows, 192, dtype=dtype, requires_grad=True)
    sizes = (shape.bits, shape.group_size, shape.in_features, shape.out_features)
    y = quantized_linear(x, packed, *sizes, "cuda")
    assert emulator[0] == kernel
    dy = torch.randn_like(y)
    y.backward(dy)
    exact = weight.dequantize(torch.float64)
    assert x.grad is not None
    assert y.dtype == dtype
    assert relative(y, x.detach().double() @ exact) < TOLERANCE[dtype]
    assert relative(x.grad, dy.double() @ exact.T) < TOLERANCE[dtype]


def test_dequantising_and_nothing_to_do(emulator: list[str]) -> None:
    weight = random_weight(4, 96, 40, 32, act_order=True)
    shape, packed = Shape.of(weight), providers.named("cuda").pack(weight)
    cuda = providers.named("cuda")
    assert torch.equal(
        cuda.dequantize(packed, shape, torch.float16), weight.dequantize(torch.float16)
    )
    assert cuda.forward(torch.empty(0, 96), packed, shape).shape == (0, 40)
    assert cuda.backward(torch.empty(0, 40), packed, shape).shape == (0, 96)
    assert emulator == ["dequantize"]


def test_a_view_that_starts_anywhere_is_read_right(emulator: list[str]) -> None:
    weight = random_weight(4, 64, 16, 64)
    shape, packed = Shape.of(weight), providers.named("cuda").pack(weight)
    x = torch.randn(129).to(torch.float16)[1:].view(2, 64)
    assert provider._aligned(x).data_ptr() % 16 == 0
    y = providers.named("cuda").forward(x, packed, shape)
    assert relative(y, x.double() @ weight.dequantize(torch.float64)) < TOLERANCE[torch.float16]
    assert emulator[0] == "decode"


def test_few_rows_of_a_layer_whose_inputs_fit_stay_on_the_multiprocessor(
    emulator: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = decoding.gpu(0)
    roomy = Gpu(found.capability, 2, 227 << 10, 228 << 10, 64)
    for module in (decoding, resident):
        monkeypatch.setattr(module, "gpu", lambda device: roomy)
    weight = random_weight(4, 1024, 72, 128, act_order=True)
    shape, packed = Shape.of(weight), providers.named("cuda").pack(weight)
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.randn(3, 1024, dtype=dtype)
        y = providers.named("cuda").forward(x, packed, shape)
        assert relative(y, x.double() @ weight.dequantize(torch.float64)) < TOLERANCE[dtype]
    hopper_here = found.capability == resident.CAPABILITY
    assert set(emulator) == {"resident" if hopper_here else "decode"}
