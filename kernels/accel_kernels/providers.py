"""What an implementation of the quantised linear layer is, and which one serves a device.

A provider keeps a weight in a layout of its own (`pack`), gives it back losslessly (`unpack`), and
computes. Providers say what they can take; `choose` asks them in the order of accel's resolution.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
from collections.abc import Sequence
from typing import ClassVar

import torch

from accel.errors import CapabilityUnavailable
from accel_kernels.formats import QuantizedWeight


@dataclasses.dataclass(frozen=True)
class Shape:
    """The numbers of a quantised layer that its packed tensors do not carry themselves."""

    bits: int
    group_size: int
    in_features: int
    out_features: int

    @classmethod
    def of(cls, weight: QuantizedWeight) -> Shape:
        """The shape of a weight in the canonical layout."""
        return cls(weight.bits, weight.group_size, weight.in_features, weight.out_features)


class Provider(abc.ABC):
    """One implementation. Every method is pure; x and dy are 2-D and contiguous."""

    name: ClassVar[str]
    probed_sizes: ClassVar[tuple[tuple[int, int], ...]] = ((512, 256),)
    """(in_features, out_features) of the 4-bit weights that a probe tries: one for each kernel."""

    @abc.abstractmethod
    def refuses(self, weight: QuantizedWeight, device: torch.device) -> str | None:
        """Why this weight cannot be served on `device`, or None."""

    @abc.abstractmethod
    def pack(self, weight: QuantizedWeight) -> list[torch.Tensor]:
        """The weight in this provider's layout, on the device the weight is on."""

    @abc.abstractmethod
    def unpack(self, packed: Sequence[torch.Tensor], shape: Shape) -> QuantizedWeight:
        """The weight that was packed, bit for bit."""

    @abc.abstractmethod
    def forward(
        self, x: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape
    ) -> torch.Tensor:
        """x [M, K] times W [K, N], summed in float32, in the dtype of x."""

    @abc.abstractmethod
    def backward(
        self, dy: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape
    ) -> torch.Tensor:
        """dy [M, N] times W transposed, summed in float32, in the dtype of dy."""

    @abc.abstractmethod
    def dequantize(
        self, packed: Sequence[torch.Tensor], shape: Shape, dtype: torch.dtype
    ) -> torch.Tensor:
        """W as [K, N] in `dtype`."""


_providers: dict[str, Provider] = {}

OWN = ("torch", "torch_int4", "triton", "cuda")
"""Providers of this package, imported when first asked for."""


def register(provider: Provider) -> Provider:
    """Make a provider known under its name; the same name again replaces it."""
    _providers[provider.name] = provider
    return provider


def named(name: str) -> Provider:
    """The provider of that name. Raises CapabilityUnavailable where there is none."""
    if name not in _providers and name in OWN:
        importlib.import_module(f"accel_kernels.{name}_provider")
    if name not in _providers:
        raise CapabilityUnavailable(
            f"no quantised-weight implementation is called {name!r}",
            found=", ".join(sorted(_providers)),
            remedy="accel explain",
        )
    return _providers[name]


def choose(
    weight: QuantizedWeight, device: torch.device, preferred: Sequence[str]
) -> tuple[Provider, list[str]]:
    """The first of `preferred` that takes the weight on `device`, and why the ones before did not.

    Raises CapabilityUnavailable, with every reason, where none does.
    """
    reasons: list[str] = []
    for name in preferred:
        provider = named(name)
        refusal = provider.refuses(weight, device)
        if refusal is None:
            return provider, reasons
        reasons.append(f"{name}: {refusal}")
    raise CapabilityUnavailable(
        f"no implementation takes {weight.bits}-bit weights with group_size {weight.group_size} "
        f"on {device}",
        reasons=reasons,
        remedy="accel explain",
    )
