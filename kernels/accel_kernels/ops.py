"""The operators `accel::quantized_linear` and `accel::quantized_linear_backward`.

Registered through `torch.library` with shapes for tracing and a gradient for x, so that
`torch.compile`, `torch.export`, autocast and gradient checkpointing see through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from accel_kernels import providers
from accel_kernels.providers import Shape


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
