"""The one layout that every reader gives and every writer takes."""

from __future__ import annotations

import dataclasses

import torch

from accel.errors import InputError
from accel_kernels.formats import packing


class FormatError(InputError):
    """A checkpoint's tensors contradict its configuration, or each other."""


@dataclasses.dataclass(frozen=True)
class QuantizedWeight:
    """A linear layer's weight: `W[k, n] = (q[k, n] - z[g(k), n]) * s[g(k), n]`, q of `bits` bits.

    With K input and N output features and G groups:

    - `qweight`: int32 [words(K), N], the q of 0 .. 2**bits - 1, packed along K;
    - `qzeros`: int32 [G, words(N)], the z of the same range, packed along N, stored as they are;
    - `scales`: floating [G, N], in the dtype of the checkpoint;
    - `g_idx`: int32 [K], the group of each input feature, or None where it is `k // group_size`
      (`desc_act` checkpoints permute it);
    - `group_size`: input features a group; K for one group per output channel.
    """

    bits: int
    group_size: int
    in_features: int
    out_features: int
    qweight: torch.Tensor
    qzeros: torch.Tensor
    scales: torch.Tensor
    g_idx: torch.Tensor | None = None

    @property
    def groups(self) -> int:
        """G: groups along K; the last may be short."""
        return -(-self.in_features // self.group_size)

    def check(self, name: str = "weight") -> QuantizedWeight:
        """This weight, or a FormatError that names the tensor, what it should be and what it is."""
        if self.bits not in packing.BITS:
            raise FormatError(f"{name}: bits must be one of {packing.BITS}", found=str(self.bits))
        for field, value in (
            ("in_features", self.in_features),
            ("out_features", self.out_features),
        ):
            if value <= 0:
                raise FormatError(f"{name}: {field} must be positive", found=str(value))
        if not 0 < self.group_size <= self.in_features:
            raise FormatError(
                f"{name}: group_size must be from 1 to in_features ({self.in_features})",
                found=str(self.group_size),
            )
        k_words = packing.words_for(self.in_features, self.bits)
        n_words = packing.words_for(self.out_features, self.bits)
        expect_shape(f"{name}.qweight", self.qweight, (k_words, self.out_features), integer=True)
        expect_shape(f"{name}.qzeros", self.qzeros, (self.groups, n_words), integer=True)
        expect_shape(f"{name}.scales", self.scales, (self.groups, self.out_features), integer=False)
        if self.g_idx is not None:
            expect_shape(f"{name}.g_idx", self.g_idx, (self.in_features,), integer=True)
            low, high = int(self.g_idx.min()), int(self.g_idx.max())
            if low < 0 or high >= self.groups:
                raise FormatError(
                    f"{name}.g_idx must name groups from 0 to {self.groups - 1}",
                    found=f"{low} to {high}",
                )
        return self

    def values(self) -> torch.Tensor:
        """q as uint8 [K, N]."""
        return packing.unpack(self.qweight, self.bits, self.in_features, dim=0)

    def zeros(self) -> torch.Tensor:
        """z as uint8 [G, N]."""
        return packing.unpack(self.qzeros, self.bits, self.out_features, dim=1)

    def group_of(self) -> torch.Tensor:
        """The group of each input feature, int64 [K]."""
        if self.g_idx is not None:
            return self.g_idx.to(torch.int64)
        return torch.arange(self.in_features, device=self.qweight.device) // self.group_size

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """W as [K, N] in `dtype`; the difference is exact, the product is rounded once."""
        if self.g_idx is None and self.in_features % self.group_size == 0:
            values = self.values().unflatten(0, (-1, self.group_size)).to(torch.float32)
            values -= self.zeros()[:, None]
            values *= self.scales.to(torch.float32)[:, None]
            return values.flatten(0, 1).to(dtype)
        group = self.group_of()
        difference = self.values().to(torch.float32) - self.zeros().to(torch.float32)[group]
        return (difference * self.scales.to(torch.float32)[group]).to(dtype)

    def to(self, device: torch.device | str) -> QuantizedWeight:
        """The same weight on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("qweight", "qzeros", "scales")}
        g_idx = None if self.g_idx is None else self.g_idx.to(device)
        return dataclasses.replace(self, **moved, g_idx=g_idx)


def expect_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...], *, integer: bool) -> None:
    """Raise FormatError unless `tensor` is int32 (or floating) and of `shape`."""
    right = tensor.dtype == torch.int32 if integer else tensor.dtype.is_floating_point
    if tuple(tensor.shape) != shape or not right:
        kind = "int32" if integer else "floating"
        raise FormatError(
            f"{name} must be {kind} {list(shape)}",
            found=f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}",
            remedy="fetch the checkpoint again, or correct bits and group_size in its config.json",
        )


def plain_groups(
    g_idx: torch.Tensor | None, in_features: int, group_size: int
) -> torch.Tensor | None:
    """`g_idx` where it permutes, None where it only counts `k // group_size`."""
    if g_idx is None:
        return None
    counted = torch.arange(in_features, device=g_idx.device, dtype=torch.int32) // group_size
    return None if torch.equal(g_idx.to(torch.int32), counted) else g_idx.to(torch.int32)


def from_values(
    values: torch.Tensor,
    zeros: torch.Tensor,
    scales: torch.Tensor,
    *,
    bits: int,
    group_size: int,
    g_idx: torch.Tensor | None = None,
) -> QuantizedWeight:
    """A weight from unpacked q [K, N], z [G, N] and s [G, N].

    Raises FormatError where a value does not fit into `bits`.
    """
    in_features, out_features = values.shape
    for name, tensor in (("values", values), ("zeros", zeros)):
        if tensor.numel() and (int(tensor.max()) >= 1 << bits or int(tensor.min()) < 0):
            raise FormatError(
                f"{name} must be from 0 to {(1 << bits) - 1} for {bits} bits",
                found=f"{int(tensor.min())} to {int(tensor.max())}",
            )
    size = in_features if group_size in (-1, 0) else group_size
    return QuantizedWeight(
        bits=bits,
        group_size=size,
        in_features=in_features,
        out_features=out_features,
        qweight=packing.pack(values, bits, dim=0),
        qzeros=packing.pack(zeros, bits, dim=1),
        scales=scales.contiguous(),
        g_idx=plain_groups(g_idx, in_features, size),
    ).check()
