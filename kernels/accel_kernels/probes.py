"""Probes of the providers: y = x W and its gradient, against float64."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from accel.errors import AccelError

if TYPE_CHECKING:
    import torch

    from accel_kernels.formats import QuantizedWeight

ROWS, GROUP = (1, 16, 96), 128
TOLERANCE = {"float32": 5e-3, "float16": 5e-3, "bfloat16": 3e-2}
"""Largest error relative to the largest value. Some devices round float32 products to TF32."""


class Refused(AccelError):
    """Wrong numbers, or a provider that cannot serve. The device is none the worse."""

    harmless = True


def quantized_linear(device: str, provider: str) -> str:
    """4-bit weights in groups of 128 with zeros, in the dtypes that the device has."""
    import torch

    from accel_kernels import providers

    where = torch.device(device)
    sizes = providers.named(provider).probed_sizes
    weights = [_weight(*size) for size in sizes]
    for weight in weights:
        reason = providers.named(provider).refuses(weight, where)
        if reason is not None:
            raise Refused(f"the provider {provider} refuses: {reason}")
    begin = time.perf_counter()
    worst = {
        str(dtype).removeprefix("torch."): max(
            _error(weight, provider, rows, dtype, where) for weight in weights for rows in ROWS
        )
        for dtype in _dtypes(where)
    }
    for name, error in worst.items():
        if error > TOLERANCE[name]:
            raise Refused(f"{name} is wrong: relative error {error:.1e}", found=provider)
    seconds = time.perf_counter() - begin
    listed = ", ".join(f"{name} {error:.0e}" for name, error in worst.items())
    tried = " and ".join(f"{inputs}x{outputs}" for inputs, outputs in sizes)
    return f"forward and gradient of {tried} in 4 bits, errors: {listed}; {seconds:.1f} s"


def _dtypes(where: torch.device) -> list[torch.dtype]:
    import torch

    found = [torch.float32]
    for dtype in (torch.float16, torch.bfloat16):
        try:
            torch.zeros(8, 8, device=where, dtype=dtype) @ torch.zeros(
                8, 8, device=where, dtype=dtype
            )
        except (RuntimeError, TypeError):
            continue
        found.append(dtype)
    return found


def _weight(inputs: int, outputs: int) -> QuantizedWeight:
    import torch

    from accel_kernels.formats import from_values

    made = torch.Generator().manual_seed(0)
    groups = inputs // GROUP
    return from_values(
        torch.randint(0, 16, (inputs, outputs), generator=made),
        torch.randint(0, 16, (groups, outputs), generator=made),
        (torch.rand(groups, outputs, generator=made) + 0.1).to(torch.float16) / 16,
        bits=4,
        group_size=GROUP,
    )


def _error(
    weight: QuantizedWeight,
    provider: str,
    rows: int,
    dtype: torch.dtype,
    where: torch.device,
) -> float:
    """The larger relative error of y and of dx."""
    import torch

    from accel_kernels import providers
    from accel_kernels.ops import quantized_linear as operator
    from accel_kernels.providers import Shape

    made = torch.Generator().manual_seed(rows)
    exact = weight.dequantize(torch.float64)
    x = torch.randn(rows, weight.in_features, generator=made).to(dtype)
    dy = torch.randn(rows, weight.out_features, generator=made).to(dtype)
    leaf = x.to(where, copy=True).requires_grad_()
    shape = Shape.of(weight)
    packed = providers.named(provider).pack(weight.to(where))
    y = operator(
        leaf, packed, shape.bits, shape.group_size, shape.in_features, shape.out_features, provider
    )
    y.backward(dy.to(where))
    assert leaf.grad is not None
    pairs = ((y.detach(), x.double() @ exact), (leaf.grad, dy.double() @ exact.t()))
    return max(
        float((got.cpu().double() - true).abs().max() / true.abs().max()) for got, true in pairs
    )
