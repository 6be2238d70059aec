"""A quantised layer and its LoRA adapter in one step, without the passes over memory between them.

peft adds an adapter by casting x, two products, a multiplication and an addition, each of which
reads and writes whole activations. Here the adapter's products are added into the results that the
quantised layer has made, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from accel_kernels.layer import QuantizedLinear
from accel_kernels.ops import Sizes, multiply, multiply_back


class _Adapted(torch.autograd.Function):  # type: ignore[misc]
    """y = x W + scaling (x A^T) B^T for x [M, K], A [r, K], B [N, r], all of one dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        packed: list[torch.Tensor],
        sizes: Sizes,
    ) -> torch.Tensor:
        hidden = x @ a.t()
        y = multiply(x, packed, sizes)
        y.addmm_(hidden, b.t(), alpha=scaling)
        ctx.save_for_backward(x, a, b, hidden)
        ctx.scaling, ctx.packed, ctx.sizes = scaling, packed, sizes
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
        x, a, b, hidden = ctx.saved_tensors
        dhidden = (dy @ b) * ctx.scaling
        dx = None
        if ctx.needs_input_grad[0]:
            dx = multiply_back(dy.contiguous(), ctx.packed, ctx.sizes)
            dx.addmm_(dhidden, a)
        da = dhidden.t() @ x if ctx.needs_input_grad[1] else None
        db = (dy.t() @ hidden) * ctx.scaling if ctx.needs_input_grad[2] else None
        return dx, da, db, None, None, None


def adapted_linear(
    layer: QuantizedLinear, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float
) -> torch.Tensor:
    """`layer(x)` plus its adapter, x [..., K], in autocast's dtype or else the dtype of x."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    flat = x.to(dtype).reshape(-1, layer.in_features)
    with torch.autocast(kind, enabled=False):
        y = _Adapted.apply(flat, a.to(dtype), b.to(dtype), scaling, layer.packed, layer.sizes)
    y = y.reshape(*x.shape[:-1], layer.out_features)
    return y if layer.bias is None else y + layer.bias.to(device=y.device, dtype=y.dtype)


def lone_adapter(lora: Any, x: torch.Tensor) -> str | None:
    """The adapter of a peft LoRA layer that can be computed with its base, or None.

    None where anything but x A^T B^T is asked for, and where somebody hooks into the modules
    (offloading, sharding), who would not be called.
    """
    base = lora.base_layer
    active = [name for name in lora.active_adapters if name in lora.lora_A]
    if not isinstance(base, QuantizedLinear) or lora.disable_adapters or len(active) != 1:
        return None
    (name,) = active
    a, b = lora.lora_A[name], lora.lora_B[name]
    dropout = lora.lora_dropout[name]
    idle = isinstance(dropout, nn.Identity) or not dropout.training
    plain = a.bias is None and b.bias is None and name not in getattr(lora, "lora_variant", {})
    if lora.merged or not idle or not plain or base.packed[0].device != x.device:
        return None
    if x.dtype != a.weight.dtype and not torch.is_autocast_enabled(x.device.type):
        return None  # peft computes it in the adapter's own precision
    return None if any(_hooked(module) for module in (base, a, b, dropout)) else name


def _hooked(module: nn.Module) -> bool:
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return any(own) or "forward" in vars(module)
