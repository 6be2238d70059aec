"""The operators against float64, in every format, and as torch's own machinery sees them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import accel_kernels.torch_provider
from accel.errors import CapabilityUnavailable
from accel_kernels import providers
from accel_kernels.formats import QuantizedWeight
from accel_kernels.ops import linear, quantized_linear
from accel_kernels.providers import Shape
from test_formats import random_weight

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def arguments(weight: QuantizedWeight, provider: str) -> tuple[Any, ...]:
    shape = Shape.of(weight)
    packed = providers.named(provider).pack(weight)
    return (packed, shape.bits, shape.group_size, shape.in_features, shape.out_features, provider)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.detach().double() - expected).norm() / expected.norm().clamp(min=1e-30))


@settings(deadline=None, max_examples=40)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    rows=st.integers(1, 5),
    k=st.sampled_from([32, 96]),
    n=st.sampled_from([32, 64, 160]),
    group=st.sampled_from([-1, 16, 32]),
    act=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    tile=st.sampled_from([1, 32 * 64, 1 << 22]),
    turned=st.booleans(),
)
def test_forward_and_gradient_against_float64(
    bits: int, rows: int, k: int, n: int, group: int, act: bool, dtype: torch.dtype, tile: int,
    turned: bool,
) -> None:  # fmt: skip
    weight = random_weight(bits, k, n, group, act_order=act)
    exact = weight.dequantize(torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accel_kernels.torch_provider, "TILE_ELEMENTS", tile)
        x = (
            torch.randn(2, k, rows, dtype=dtype).mT
            if turned
            else torch.randn(2, rows, k, dtype=dtype)
        )
        x.requires_grad_()
        y = quantized_linear(x, *arguments(weight, "torch"))
        dy = torch.randn_like(y)
        y.backward(dy)
    assert y.dtype == dtype
    assert x.grad is not None
    assert relative(y, x.detach().double() @ exact) < TOLERANCE[dtype]
    assert relative(x.grad, dy.double() @ exact.T) < TOLERANCE[dtype]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_dequantising_in_bands_is_dequantising_at_once(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel_kernels.torch_provider, "TILE_ELEMENTS", 96 * 32)
    weight = random_weight(bits, 96, 160, 16, act_order=True)
    provider = providers.named("torch")
    packed = provider.pack(weight)
    assert torch.equal(
        provider.dequantize(packed, Shape.of(weight), torch.float32), weight.dequantize()
    )


@pytest.mark.parametrize("shape", [(32,), (0, 32), (1, 32), (2, 3, 32)])
@pytest.mark.parametrize("turned", [False, True])
def test_without_the_dispatcher_it_is_the_same(shape: tuple[int, ...], turned: bool) -> None:
    packed, *sizes = arguments(random_weight(4, 32, 16, 16), "torch")
    x = torch.randn(*reversed(shape)).mT if turned and len(shape) > 1 else torch.randn(shape)
    if x.shape != shape:
        x = x.reshape(shape)
    ours, theirs = x.detach().requires_grad_(), x.detach().requires_grad_()
    y, expected = linear(ours, packed, tuple(sizes)), quantized_linear(theirs, packed, *sizes)
    assert y.shape == expected.shape
    assert torch.equal(y, expected)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy)
    assert ours.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
    with torch.no_grad():
        assert torch.equal(linear(ours, packed, tuple(sizes)), expected)
    assert torch.equal(linear(x.detach(), packed, tuple(sizes)), expected)


def test_who_looks_for_operators_finds_it() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    packed, *sizes = arguments(random_weight(4, 32, 16, 16), "torch")
    x = torch.randn(3, 32)
    with Watch():
        linear(x, packed, tuple(sizes))
    assert "accel.quantized_linear.default" in seen


def test_a_gradient_of_the_gradient_is_refused_and_not_wrong() -> None:
    packed, *sizes = arguments(random_weight(4, 32, 16, 16), "torch")
    x = torch.randn(3, 32, requires_grad=True)
    (dx,) = torch.autograd.grad(
        linear(x, packed, tuple(sizes)).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_torchs_own_checks_of_a_custom_operator() -> None:
    weight = random_weight(4, 32, 16, 16)
    x = torch.randn(3, 32, requires_grad=True)
    torch.library.opcheck(quantized_linear, (x, *arguments(weight, "torch")))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile_sees_one_graph_and_the_same_numbers() -> None:
    weight = random_weight(4, 64, 32, 16)
    given_arguments = arguments(weight, "torch")

    def model(x: torch.Tensor) -> torch.Tensor:
        return quantized_linear(x.tanh(), *given_arguments).sigmoid()

    x = torch.randn(5, 64, requires_grad=True)
    expected = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    assert torch.allclose(compiled, expected)
    (grad,) = torch.autograd.grad(expected.sum(), x)
    (again,) = torch.autograd.grad(compiled.sum(), x)
    assert torch.allclose(again, grad)


def test_an_unknown_provider_is_an_error_with_what_there_is() -> None:
    with pytest.raises(CapabilityUnavailable, match="torch"):
        providers.named("nosuch")


def test_a_choice_keeps_the_reasons_of_those_that_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(type(providers.named("torch"))):  # type: ignore[misc]
        name = "picky"

        def refuses(self, weight: QuantizedWeight, device: torch.device) -> str | None:
            return "too plain"

    monkeypatch.setitem(providers._providers, "picky", Picky())
    weight = random_weight(4, 32, 16, 16)
    chosen, reasons = providers.choose(weight, torch.device("cpu"), ["picky", "torch"])
    assert (chosen.name, reasons) == ("torch", ["picky: too plain"])
    with pytest.raises(CapabilityUnavailable, match="too plain"):
        providers.choose(weight, torch.device("cpu"), ["picky"])
