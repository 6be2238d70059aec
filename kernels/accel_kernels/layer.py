"""The module that stands in a model where a quantised linear layer was saved.

Until `finish()` it holds the checkpoint's own tensors under the checkpoint's own names, so that any
loader can fill it. After it, it holds them in the layout of the provider that serves the device,
and saves them as they were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from accel_kernels import providers
from accel_kernels.formats import FormatError, QuantizedWeight, awq, compressed_tensors, gptq
from accel_kernels.ops import quantized_linear
from accel_kernels.providers import Shape

Format = Literal["awq", "gptq", "compressed-tensors"]
DEFAULT_PREFERENCE = ("torch",)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How a checkpoint stores its quantised layers.

    `group_size` -1 means one group a channel; `v1` and `sym` matter to GPTQ alone, `asymmetric`
    and `act_order` say which optional tensors compressed-tensors has.
    """

    format: Format
    bits: int
    group_size: int
    v1: bool = True
    sym: bool = False
    asymmetric: bool = False
    act_order: bool = False

    def empty(
        self, in_features: int, out_features: int, dtype: torch.dtype, device: torch.device | str
    ) -> dict[str, torch.Tensor]:
        """Tensors to load a layer into, by the names that the format gives them."""
        sizes: dict[str, Any] = {
            "group_size": self.group_size,
            "in_features": in_features,
            "out_features": out_features,
            "scales_dtype": dtype,
            "device": device,
        }
        if self.format == "awq":
            return awq.empty(**sizes)
        if self.format == "gptq":
            return gptq.empty(bits=self.bits, **sizes)
        return compressed_tensors.empty(
            bits=self.bits, asymmetric=self.asymmetric, act_order=self.act_order, **sizes
        )

    def read(
        self, tensors: dict[str, torch.Tensor], in_features: int, out_features: int, name: str
    ) -> QuantizedWeight:
        """The layer's tensors as a weight. Raises FormatError where they do not fit."""
        sizes: dict[str, Any] = {
            "group_size": self.group_size,
            "in_features": in_features,
            "out_features": out_features,
            "name": name,
        }
        if self.format == "awq":
            return awq.read(tensors, bits=self.bits, **sizes)
        if self.format == "gptq":
            return gptq.read(tensors, bits=self.bits, v1=self.v1, sym=self.sym, **sizes)
        weight = compressed_tensors.read(
            tensors, bits=self.bits, group_size=self.group_size, name=name
        )
        if (weight.in_features, weight.out_features) != (in_features, out_features):
            raise FormatError(
                f"{name}.weight_shape must be {[out_features, in_features]}",
                found=str([weight.out_features, weight.in_features]),
            )
        return weight

    def write(self, weight: QuantizedWeight) -> dict[str, torch.Tensor]:
        """The tensors that `read` took, bit for bit."""
        if self.format == "awq":
            return awq.write(weight)
        if self.format == "gptq":
            return gptq.write(weight, v1=self.v1)
        return compressed_tensors.write(weight)


class QuantizedLinear(nn.Module):  # type: ignore[misc]
    """y = x W + b with W in 2 to 8 bits. W is frozen; x and b have gradients.

    `x` [..., in_features] in any floating dtype, also under autocast; `y` [..., out_features] in
    the dtype that x is computed in.
    """

    qweight: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scheme: Scheme,
        *,
        bias: bool = False,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "meta",
        name: str = "weight",
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.scheme = scheme
        self.name = name
        self.provider: str | None = None
        self.refused: tuple[str, ...] = ()
        self._packed_names: tuple[str, ...] = ()
        self._shape: Shape | None = None
        self._stored_v1 = scheme.v1
        for key, tensor in scheme.empty(in_features, out_features, dtype, device).items():
            self.register_buffer(key, tensor)
        empty = torch.empty(out_features, dtype=dtype, device=device) if bias else None
        self.bias = None if empty is None else nn.Parameter(empty)

    def finish(self, preference: Sequence[str] = DEFAULT_PREFERENCE) -> None:
        """Turn the loaded tensors into the layout of the first provider that takes them.

        Raises FormatError where the tensors do not fit, CapabilityUnavailable where none does.
        """
        tensors = dict(self.named_buffers(recurse=False))
        weight = self.scheme.read(tensors, self.in_features, self.out_features, self.name)
        self._remember_zeros(tensors, weight)
        provider, refused = providers.choose(weight, weight.qweight.device, preference)
        for key in tensors:
            delattr(self, key)
        packed = provider.pack(weight)
        names = ("qweight", *(f"packed_{index}" for index in range(1, len(packed))))
        for key, tensor in zip(names, packed, strict=True):
            self.register_buffer(key, tensor, persistent=False)
        self.provider, self.refused = provider.name, tuple(refused)
        self._packed_names, self._shape = names, Shape.of(weight)

    def _remember_zeros(self, tensors: dict[str, torch.Tensor], weight: QuantizedWeight) -> None:
        """Whether a checkpoint that says v1 really holds v1 zeros, to save it as it was."""
        if self.scheme.format == "gptq" and self.scheme.v1:
            self._stored_v1 = not torch.equal(tensors["qzeros"], weight.qzeros)

    @property
    def packed(self) -> list[torch.Tensor]:
        """The tensors of the provider's layout."""
        return [getattr(self, key) for key in self._packed_names]

    def weight_values(self) -> QuantizedWeight:
        """The weight in the canonical layout."""
        shape, provider = self._ready()
        return providers.named(provider).unpack(self.packed, shape)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight as `nn.Linear` has it: [out_features, in_features] in `dtype`."""
        shape, provider = self._ready()
        return providers.named(provider).dequantize(self.packed, shape, dtype).t().contiguous()

    def to_linear(self, dtype: torch.dtype) -> nn.Linear:
        """A plain linear layer with the dequantised weight."""
        device = self.packed[0].device
        linear = nn.Linear(
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device=device,
            dtype=dtype,
        )
        with torch.no_grad():
            linear.weight.copy_(self.dequantize(dtype))
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in_features] -> [..., out_features]."""
        shape, provider = self._ready()
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        y = quantized_linear(
            x,
            self.packed,
            shape.bits,
            shape.group_size,
            shape.in_features,
            shape.out_features,
            provider,
        )
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        scheme = self.scheme
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {scheme.format} {scheme.bits}-bit, "
            f"group_size={scheme.group_size}, provider={self.provider}"
        )

    def _ready(self) -> tuple[Shape, str]:
        if self._shape is None or self.provider is None:
            raise FormatError(
                f"{self.name} was not finished after its checkpoint was loaded",
                remedy="call finish() on every QuantizedLinear, as from_pretrained does",
            )
        return self._shape, self.provider

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._shape is not None:
            scheme = dataclasses.replace(self.scheme, v1=self._stored_v1)
            for key, tensor in scheme.write(self.weight_values()).items():
                destination[prefix + key] = tensor


def finish_all(model: nn.Module, preference: Sequence[str] = DEFAULT_PREFERENCE) -> dict[str, int]:
    """Finish every quantised layer of a model; how many layers each provider serves."""
    served: dict[str, int] = {}
    for module in model.modules():
        if isinstance(module, QuantizedLinear) and module.provider is None:
            module.finish(preference)
            assert module.provider is not None
            served[module.provider] = served.get(module.provider, 0) + 1
    return served


def replace_linears(
    model: nn.Module, scheme: Scheme, names: Sequence[str], dtype: torch.dtype
) -> None:
    """Put an empty QuantizedLinear, on the meta device, in the place of each named linear layer."""
    for name in names:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        layer = QuantizedLinear(
            linear.in_features,
            linear.out_features,
            scheme,
            bias=linear.bias is not None,
            dtype=dtype,
            name=name,
        )
        layer.requires_grad_(False)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent) if parent else model, child, layer)
