"""The module that stands in a model where a quantised linear layer was saved.

Until `finish()` it holds the checkpoint's own tensors under the checkpoint's own names, so that any
loader can fill it. After it, it holds them in the layout of the provider that serves the device,
and saves them as they were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from accel_kernels import providers
from accel_kernels.formats import FormatError, QuantizedWeight, awq, compressed_tensors, gptq
from accel_kernels.ops import linear
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
            return gptq.write(weight, v1=self.v1, as_read=True)
        return compressed_tensors.write(
            weight, asymmetric=self.asymmetric, act_order=self.act_order
        )


class QuantizedLinear(nn.Module):  # type: ignore[misc]
    """y = x W + b with W in 2 to 8 bits. W is frozen; x and b have gradients.

    `x` [..., in_features] in any floating dtype, also under autocast; `y` [..., out_features] in
    the dtype that x is computed in. `dtype` is the one of the model around it, and of the plain
    layer that takes its place when it is dequantised.
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
        self.dtype = dtype
        self.name = name
        self.provider: str | None = None
        self.refused: tuple[str, ...] = ()
        self._preference: tuple[str, ...] = DEFAULT_PREFERENCE
        self._packed_names: tuple[str, ...] = ()
        self._shape: Shape | None = None
        self._stored_v1 = scheme.v1
        self._stored: dict[str, torch.dtype] = {}
        for key, tensor in scheme.empty(in_features, out_features, dtype, device).items():
            # Parameters, because offloading of layers takes parameters only.
            self.register_parameter(key, nn.Parameter(tensor, requires_grad=False))
        empty = torch.empty(out_features, dtype=dtype, device=device) if bias else None
        self.bias = None if empty is None else nn.Parameter(empty, requires_grad=False)

    def stored(self) -> dict[str, torch.Tensor]:
        """The checkpoint's tensors, as long as they wait for `finish()`."""
        own = dict(self.named_parameters(recurse=False))
        own.pop("bias", None)
        return {key: tensor.data for key, tensor in own.items()}

    def finish(
        self,
        preference: Sequence[str] = DEFAULT_PREFERENCE,
        device: torch.device | None = None,
    ) -> None:
        """Turn the loaded tensors into the layout of the first provider that takes them.

        `device` is where the layer computes, if its tensors are kept elsewhere.
        Raises FormatError where the tensors do not fit, CapabilityUnavailable where none does.
        """
        tensors = self.stored()
        waiting = [key for key, tensor in tensors.items() if tensor.is_meta]
        if waiting:
            raise FormatError(
                f"{self.name} was not loaded",
                found=f"no {', '.join(waiting)}",
                remedy="fetch the checkpoint again",
            )
        weight = self.scheme.read(tensors, self.in_features, self.out_features, self.name)
        self._stored = {key: tensor.dtype for key, tensor in tensors.items()}
        if self.scheme.format == "gptq" and self.scheme.v1:
            # Whether a checkpoint that says v1 really holds v1 zeros, to save it as it was.
            self._stored_v1 = not torch.equal(tensors["qzeros"], weight.qzeros)
        for key in tensors:
            delattr(self, key)
        del tensors
        self._preference = tuple(preference)
        self._take(weight, device or weight.qweight.device)

    def _take(self, weight: QuantizedWeight, device: torch.device) -> None:
        """Keep `weight` in the layout of the best provider for `device`."""
        provider, refused = providers.choose(weight, device, self._preference)
        for key in self._packed_names:
            delattr(self, key)
        packed = provider.pack(weight)
        names = ("qweight", *(f"packed_{index}" for index in range(1, len(packed))))
        for key, tensor in zip(names, packed, strict=True):
            self.register_buffer(key, tensor, persistent=False)
        self.provider, self.refused = provider.name, tuple(refused)
        self._packed_names, self._shape = names, Shape.of(weight)

    @property
    def packed(self) -> list[torch.Tensor]:
        """The tensors of the provider's layout."""
        return [getattr(self, key) for key in self._packed_names]

    @property
    def sizes(self) -> tuple[int, int, int, int, str]:
        """What the operators want to know of the weight, after its packed tensors."""
        shape, provider = self._ready()
        return (
            shape.bits,
            shape.group_size,
            shape.in_features,
            shape.out_features,
            provider,
        )

    def weight_values(self) -> QuantizedWeight:
        """The weight in the canonical layout."""
        shape, provider = self._ready()
        return providers.named(provider).unpack(self.packed, shape)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight as `nn.Linear` has it: [out_features, in_features] in `dtype`."""
        shape, provider = self._ready()
        return providers.named(provider).dequantize(self.packed, shape, dtype).t().contiguous()

    def to_linear(self, dtype: torch.dtype | None = None) -> nn.Linear:
        """A plain linear layer with the dequantised weight, in the model's dtype or `dtype`."""
        linear = DenseLinear(
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device="meta",
            dtype=dtype or self.dtype,
        ).requires_grad_(False)
        linear.weight = nn.Parameter(self.dequantize(dtype or self.dtype), requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().to(dtype or self.dtype).clone())
            linear.bias.requires_grad_(self.bias.requires_grad)
        return linear.train(self.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in_features] -> [..., out_features]."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        packed, bias = self.packed, self.bias
        if packed[0].device != x.device:
            packed = [tensor.to(x.device, non_blocking=True) for tensor in packed]
        y = linear(x, packed, self.sizes)
        return y if bias is None else y + bias.to(device=y.device, dtype=y.dtype)

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

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Move, and never convert: the words and scales of a checkpoint stay as they are.

        On another kind of device another provider may be better, in a layout of its own.
        """
        if self._shape is None:
            return super()._apply(fn, recurse)
        kept = self.packed
        there = fn(kept[0].new_empty(0)).device
        self.dtype = fn(kept[0].new_empty(0, dtype=self.dtype)).dtype
        weight = None
        if "meta" not in (there.type, kept[0].device.type) and there.type != kept[0].device.type:
            weight = self.weight_values()
        for key in self._packed_names:
            setattr(self, key, None)
        super()._apply(fn, recurse)
        if weight is not None:
            self._take(weight.to(there), there)
            return self
        for key, tensor in zip(self._packed_names, kept, strict=True):
            setattr(self, key, tensor.to(there))
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._shape is not None:
            scheme = dataclasses.replace(self.scheme, v1=self._stored_v1)
            tensors = scheme.write(self.weight_values())
            for key, dtype in self._stored.items():
                destination[prefix + key] = tensors[key].to(dtype)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take a checkpoint's tensors also when finished, all of them together."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        unexpected = args[3]
        given = {
            key: state_dict[prefix + key] for key in self._stored if prefix + key in state_dict
        }
        if self._shape is None or not given:
            return
        device = self.packed[0].device
        weight = self.scheme.read(given, self.in_features, self.out_features, self.name)
        self._take(weight.to(device), device)
        unexpected[:] = [key for key in unexpected if key.removeprefix(prefix) not in given]


class DenseLinear(nn.Linear):  # type: ignore[misc]
    """What a quantised layer becomes. Like it, it takes x in any dtype, outside autocast too.

    peft's `prepare_model_for_kbit_training` makes the norms float32 and so the activations, while
    this weight has the dtype that the model was loaded in.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in_features] -> [..., out_features] in the dtype of x."""
        if x.dtype == self.weight.dtype or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def replace_linear(
    model: nn.Module, name: str, scheme: Scheme, dtype: torch.dtype
) -> QuantizedLinear:
    """Put an empty QuantizedLinear, on the meta device, in the place of a linear layer."""
    linear = model.get_submodule(name)
    layer = QuantizedLinear(
        linear.in_features,
        linear.out_features,
        scheme,
        bias=linear.bias is not None,
        dtype=dtype,
        name=name,
    )
    put(model, name, layer)
    return layer


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` at `name` in `model`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, child, module)
