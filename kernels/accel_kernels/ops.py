"""The operators `accel::quantized_linear` and `accel::quantized_linear_backward`.

Registered through `torch.library` with shapes for tracing and a gradient for x, so that
`torch.compile`, `torch.export`, autocast and gradient checkpointing see through them. `linear` is
what layers call: the operator where somebody looks for operators, and else the same without the
dispatcher, which for one row costs as much as a small product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from accel_kernels import providers
from accel_kernels.providers import Shape

Sizes = tuple[int, int, int, int, str]
"""Bits, group size, input and output features, and the provider's name."""


@torch.library.custom_op("accel::quantized_linear", mutates_args=())
def quantized_linear(
    x: torch.Tensor,
    packed: Sequence[torch.Tensor],
    bits: int,
    group_size: int,
    in_features: int,
    out_features: int,
    provider: str,
) -> torch.Tensor:
    """x [..., K] times W [K, N]: floating, [..., N] in the dtype of x.

    `packed` is the weight in the layout of `provider`.
    """
    shape = Shape(bits, group_size, in_features, out_features)
    flat = x.reshape(-1, in_features).contiguous()
    y = providers.named(provider).forward(flat, packed, shape)
    return y.reshape(*x.shape[:-1], out_features)


@quantized_linear.register_fake
def _(
    x: torch.Tensor,
    packed: Sequence[torch.Tensor],
    bits: int,
    group_size: int,
    in_features: int,
    out_features: int,
    provider: str,
) -> torch.Tensor:
    torch._check(x.shape[-1] == in_features)
    return x.new_empty((*x.shape[:-1], out_features))


@torch.library.custom_op("accel::quantized_linear_backward", mutates_args=())
def quantized_linear_backward(
    dy: torch.Tensor,
    packed: Sequence[torch.Tensor],
    bits: int,
    group_size: int,
    in_features: int,
    out_features: int,
    provider: str,
) -> torch.Tensor:
    """dy [..., N] times W transposed: [..., K] in the dtype of dy."""
    shape = Shape(bits, group_size, in_features, out_features)
    flat = dy.reshape(-1, out_features).contiguous()
    dx = providers.named(provider).backward(flat, packed, shape)
    return dx.reshape(*dy.shape[:-1], in_features)


@quantized_linear_backward.register_fake
def _(
    dy: torch.Tensor,
    packed: Sequence[torch.Tensor],
    bits: int,
    group_size: int,
    in_features: int,
    out_features: int,
    provider: str,
) -> torch.Tensor:
    return dy.new_empty((*dy.shape[:-1], in_features))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, packed, *sizes = inputs
    ctx.save_for_backward(*packed)
    ctx.sizes = sizes


def _gradient(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
    packed = list(ctx.saved_tensors)  # asked for once: checkpointing gives them out only once
    dx = quantized_linear_backward(dy, packed, *ctx.sizes)
    return (dx, [None] * len(packed), *([None] * len(ctx.sizes)))


quantized_linear.register_autograd(_gradient, setup_context=_remember)


def multiply(x: torch.Tensor, packed: Sequence[torch.Tensor], sizes: Sizes) -> torch.Tensor:
    """x [M, K] times W, without a gradient where no operator is wanted."""
    if not direct(x):
        y: torch.Tensor = quantized_linear(x, packed, *sizes)
        return y
    return providers.named(sizes[4]).forward(x.contiguous(), packed, Shape(*sizes[:4]))


def multiply_back(dy: torch.Tensor, packed: Sequence[torch.Tensor], sizes: Sizes) -> torch.Tensor:
    """dy [M, N] times W transposed, without a gradient where no operator is wanted."""
    if not direct(dy):
        dx: torch.Tensor = quantized_linear_backward(dy, packed, *sizes)
        return dx
    return providers.named(sizes[4]).backward(dy.contiguous(), packed, Shape(*sizes[:4]))


def direct(x: torch.Tensor) -> bool:
    """Whether x is a plain tensor, and nothing traces or wants to see operators."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is torch.Tensor
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch.jit.is_tracing()
    )


class _Product(torch.autograd.Function):  # type: ignore[misc]
    """y = x W for x [M, K]; the weight has no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, packed: Sequence[torch.Tensor], sizes: Sizes
    ) -> torch.Tensor:
        ctx.packed, ctx.sizes = packed, sizes
        return multiply(x, packed, sizes)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
        return multiply_back(dy, ctx.packed, ctx.sizes), None, None


def linear(x: torch.Tensor, packed: Sequence[torch.Tensor], sizes: Sizes) -> torch.Tensor:
    """x [..., K] times W: [..., N] in the dtype of x."""
    if not direct(x):
        y: torch.Tensor = quantized_linear(x, packed, *sizes)
        return y
    flat = x if x.dim() == 2 else x.reshape(-1, sizes[2])
    tracked = x.requires_grad and torch.is_grad_enabled()
    y = _Product.apply(flat, packed, sizes) if tracked else multiply(flat, packed, sizes)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], sizes[3])
