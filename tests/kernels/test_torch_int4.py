"""torch's int4 kernel on the processor: a lossless layout, right numbers, and reasoned refusals."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_kernels import providers, torch_int4_provider
from accel_kernels.formats import QuantizedWeight
from accel_kernels.ops import quantized_linear
from accel_kernels.providers import Shape
from test_formats import random_weight, same
from test_ops import TOLERANCE, arguments, relative

CPU = torch.device("cpu")
NAME = "torch_int4"

pytestmark = pytest.mark.skipif(
    torch_int4_provider.block_size() is None, reason="torch has no int4 kernel for this processor"
)


@st.composite
def weights(draw: st.DrawFn) -> QuantizedWeight:
    """4 bits in whole groups of a multiple of 32; act order, and zero scales, included."""
    group = draw(st.sampled_from([32, 64, 96, 128, 256, -1]))
    k = (256 if group == -1 else group) * draw(st.integers(1, 3))
    n = 64 * draw(st.integers(1, 3))
    act_order = draw(st.booleans())
    weight = random_weight(4, k, n, group, act_order=act_order, seed=draw(st.integers(0, 9)))
    if draw(st.booleans()):
        weight.scales[:, ::3] = 0.0
    return weight


@settings(deadline=None, max_examples=30)
@given(weight=weights(), tile=st.sampled_from([1, 64 * 300, 1 << 22]))
def test_the_layout_is_lossless(weight: QuantizedWeight, tile: int) -> None:
    provider = providers.named(NAME)
    assert provider.refuses(weight, CPU) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_int4_provider, "TILE_ELEMENTS", tile)
        packed = provider.pack(weight)
        assert same(provider.unpack(packed, Shape.of(weight)), weight)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            found = provider.dequantize(packed, Shape.of(weight), dtype)
            assert torch.equal(found, weight.dequantize(dtype))


@settings(deadline=None, max_examples=40)
@given(
    weight=weights(),
    rows=st.sampled_from([1, 3, 63, 64, 65, 130]),
    dtype=st.sampled_from(list(TOLERANCE)),
    tile=st.sampled_from([1, 64 * 300, 1 << 22]),
    turned=st.booleans(),
    hardware=st.booleans(),
)
def test_forward_and_gradient_against_float64(
    weight: QuantizedWeight, rows: int, dtype: torch.dtype, tile: int, turned: bool, hardware: bool
) -> None:
    exact, k = weight.dequantize(torch.float64), weight.in_features
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_int4_provider, "TILE_ELEMENTS", tile)
        patch.setattr(torch_int4_provider, "multiplies_bfloat16", lambda: hardware)
        x = torch.randn(k, rows).t().to(dtype) if turned else torch.randn(rows, k).to(dtype)
        x.requires_grad_()
        y = quantized_linear(x, *arguments(weight, NAME))
        dy = torch.randn(y.shape[::-1]).t().to(dtype) if turned else torch.randn_like(y)
        y.backward(dy)
    assert (y.dtype, y.shape) == (dtype, (rows, weight.out_features))
    assert x.grad is not None
    assert relative(y, x.detach().double() @ exact) < TOLERANCE[dtype]
    assert relative(x.grad, dy.double() @ exact.T) < TOLERANCE[dtype]


def test_gradcheck() -> None:
    """torch's own check, in the precision it asks for."""
    weight = random_weight(4, 64, 64, 32, act_order=True)
    x = torch.randn(3, 64, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: quantized_linear(x, *arguments(weight, NAME)), x)


@pytest.mark.parametrize(
    ("weight", "device", "reason"),
    [
        (random_weight(8, 64, 64, 32), "cpu", "4 bits, not 8"),
        (random_weight(4, 64, 72, 32), "cpu", "72 output features"),
        (random_weight(4, 64, 64, 16), "cpu", "groups of 16 in 64"),
        (random_weight(4, 96, 64, 64), "cpu", "groups of 64 in 96"),
        (random_weight(4, 64, 64, 32), "meta", "not on meta"),
    ],
)
def test_what_is_refused_and_why(weight: QuantizedWeight, device: str, reason: str) -> None:
    assert reason in str(providers.named(NAME).refuses(weight, torch.device(device)))


def test_act_order_with_groups_that_are_not_full_is_refused() -> None:
    weight = random_weight(4, 64, 64, 32, act_order=True)
    assert weight.g_idx is not None
    weight.g_idx[:] = 0
    weight.g_idx[0] = 1
    assert "not full" in str(providers.named(NAME).refuses(weight, CPU))
    chosen, reasons = providers.choose(weight, CPU, [NAME, "torch"])
    assert (chosen.name, len(reasons)) == ("torch", 1)


def test_few_rows_of_bfloat16_make_no_dense_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random_weight(4, 256, 128, 64)
    given_arguments = arguments(weight, NAME)

    def refuse(*args: object) -> None:
        raise AssertionError("a tile was made")

    monkeypatch.setattr(torch_int4_provider._Tiles, "dense", refuse)
    quantized_linear(torch.randn(64, 256).bfloat16(), *given_arguments)
    with pytest.raises(AssertionError, match="a tile was made"):
        quantized_linear(torch.randn(65, 256).bfloat16(), *given_arguments)


CAPABILITIES = """
import torch
import accel_kernels.torch_int4_provider as module
from accel_kernels import probes
block = module.block_size()
if block is None:
    print(torch.backends.cpu.get_cpu_capability(), "refused")
else:
    print(torch.backends.cpu.get_cpu_capability(), probes.quantized_linear("cpu", "torch_int4"))
"""


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="an x86 matter"
)
@pytest.mark.parametrize(("capability", "said"), [("avx2", "forward"), ("default", "refused")])
def test_a_processor_with_less_has_another_layout(capability: str, said: str) -> None:
    """torch's own switch makes this processor one without AVX-512, or without AVX2."""
    done = subprocess.run(
        [sys.executable, "-c", CAPABILITIES],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{capability.upper()} {said}")
