"""The provider `triton`."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from accel_kernels.formats import QuantizedWeight
from accel_kernels.providers import Provider, Shape, register
from accel_kernels.triton_provider import layout, tuning
from accel_kernels.triton_provider.configs import Config, Problem, Product, m_class
from accel_kernels.triton_provider.layout import Packed

if TYPE_CHECKING:
    from accel_kernels.triton_provider.launching import Call

KINDS = ("cuda", "npu")
"""torch's names of the devices that Triton, or a vendor's fork of it, compiles for."""


class TritonProvider(Provider):
    """Expands weights in registers; for many rows dequantises slabs that stay in the L2 cache.

    float16 and bfloat16 are multiplied as they are and summed in float32. float32 is multiplied by
    torch with dequantised slabs: as exact as `torch.matmul` is set to be.
    """

    name: ClassVar[str] = "triton"

    def refuses(self, weight: QuantizedWeight, device: torch.device) -> str | None:
        """A missing Triton, a device it does not compile for, or 3-bit values."""
        return device_refusal(device) or layout.refusal(weight)

    def pack(self, weight: QuantizedWeight) -> list[torch.Tensor]:
        """See `layout`."""
        return layout.pack(weight)

    def unpack(self, packed: Sequence[torch.Tensor], shape: Shape) -> QuantizedWeight:
        """See `layout`."""
        return layout.unpack(packed, shape)

    def forward(
        self, x: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape
    ) -> torch.Tensor:
        """x [M, K] times W [K, N]."""
        if x.shape[0] == 0:
            return x.new_empty(0, shape.out_features)
        call = _call(packed, shape, x.device)
        if call.packed.order is not None:
            x = x.index_select(1, call.packed.order)
        return multiply("forward", x, call, _config("forward", x, call))

    def backward(
        self, dy: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape
    ) -> torch.Tensor:
        """dy [M, N] times W transposed."""
        if dy.shape[0] == 0:
            return dy.new_empty(0, shape.in_features)
        call = _call(packed, shape, dy.device)
        dx = multiply("backward", dy, call, _config("backward", dy, call))
        return dx if call.packed.inverse is None else dx.index_select(1, call.packed.inverse)

    def dequantize(
        self, packed: Sequence[torch.Tensor], shape: Shape, dtype: torch.dtype
    ) -> torch.Tensor:
        """W as [K, N] in `dtype`, a transposed view of [N, K]."""
        call = _call(packed, shape, packed[0].device)
        native = dtype if dtype in _NATIVE else torch.float32
        whole = packed[0].new_empty(shape.out_features, shape.in_features, dtype=native)
        _dequantize_into(whole, call, 0, 0)
        if call.packed.inverse is not None:
            whole = whole.index_select(1, call.packed.inverse)
        return whole.to(dtype).t()


_NATIVE = (torch.float16, torch.bfloat16, torch.float32)


def device_refusal(device: torch.device) -> str | None:
    """Why Triton cannot serve `device`, or None. Triton itself is not imported."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device.type == "cpu":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return None if interpreted else "Triton compiles for no CPU"
    if device.type not in KINDS:
        return f"Triton compiles for no device of type {device.type!r}"
    if device.type == "npu" and importlib.util.find_spec("triton.backends.ascend") is None:
        return "the installed triton has no backend for this device; its vendor's fork has one"
    if device.type == "cuda" and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            return f"Triton uses no matrix instructions on sm_{major}{minor}, only from sm_80 on"
    return None


@functools.lru_cache(maxsize=64)
def _device(device: torch.device) -> tuple[str, int]:
    """The architecture as its vendor calls it, and how many processors the device has."""
    if device.type != "cuda":
        return device.type, 8
    found = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return re.sub(":.*", "", found.gcnArchName), found.multi_processor_count
    return f"sm_{found.major}{found.minor}", found.multi_processor_count


def _call(packed: Sequence[torch.Tensor], shape: Shape, device: torch.device) -> Call:
    from accel_kernels.triton_provider.launching import Call

    ptx = device.type == "cuda" and torch.version.hip is None
    return Call(Packed.of(packed), shape, ptx)


def problem_of(product: Product, a: torch.Tensor, call: Call) -> Problem:
    """What decides how `a` is multiplied."""
    arch, processors = _device(a.device)
    return Problem(
        product=product,
        arch=arch,
        processors=processors,
        bits=call.shape.bits,
        group=call.group,
        in_features=call.shape.in_features,
        out_features=call.shape.out_features,
        m_class=m_class(a.shape[0]),
        dtype=str(a.dtype).removeprefix("torch."),
    )


def _config(product: Product, a: torch.Tensor, call: Call) -> Config:
    problem = problem_of(product, a, call)
    return tuning.chosen(problem, lambda config: multiply(product, a, call, config))


def multiply(product: Product, a: torch.Tensor, call: Call, config: Config) -> torch.Tensor:
    """x W or dy W^T, cut as `config` says, K in the order of the words."""
    from accel_kernels.triton_provider import launching

    if config.slab or a.dtype not in (torch.float16, torch.bfloat16):
        slab = config.slab or 4096
        return _by_slabs(a, call, slab) if product == "forward" else _back_by_slabs(a, call, slab)
    run = launching.linear if product == "forward" else launching.gradient
    return run(a, call, config)


def _by_slabs(x: torch.Tensor, call: Call, slab: int) -> torch.Tensor:
    """x W, a slab of output features at a time."""
    inputs, outputs = call.shape.in_features, call.shape.out_features
    y = x.new_empty(x.shape[0], outputs)
    buffer = x.new_empty(min(slab, outputs), inputs)
    for start in range(0, outputs, slab):
        weight = buffer[: min(slab, outputs - start)]
        _dequantize_into(weight, call, start, 0)
        torch.mm(x, weight.t(), out=y[:, start : start + slab])
    return y


def _back_by_slabs(dy: torch.Tensor, call: Call, slab: int) -> torch.Tensor:
    """dy W^T, a slab of input features at a time: each is summed whole."""
    inputs, outputs = call.shape.in_features, call.shape.out_features
    dx = dy.new_empty(dy.shape[0], inputs)
    for start in range(0, inputs, slab):
        weight = dy.new_empty(outputs, min(slab, inputs - start))
        _dequantize_into(weight, call, 0, start)
        torch.mm(dy, weight, out=dx[:, start : start + slab])
    return dx


def _dequantize_into(out: torch.Tensor, call: Call, first_n: int, first_k: int) -> None:
    from accel_kernels.triton_provider import launching

    chunk = layout.chunk_inputs(call.shape.bits)
    config = Config(block_k=max(128, chunk), warps=4)
    launching.dequantize_into(out, call, first_n, first_k, config)


register(TritonProvider())
