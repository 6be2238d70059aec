"""The implementation in plain torch operations: every device, every format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch

from accel_kernels.formats import QuantizedWeight, packing
from accel_kernels.providers import Provider, Shape, register

TILE_ELEMENTS = 1 << 22
"""Weights dequantised at a time: 16 MiB in float32, small beside any layer's activations."""


class TorchProvider(Provider):
    """Dequantises a band of output features at a time and multiplies."""

    name: ClassVar[str] = "torch"

    def refuses(self, weight: QuantizedWeight, device: torch.device) -> str | None:
        """Nothing is refused."""
        return None

    def pack(self, weight: QuantizedWeight) -> list[torch.Tensor]:
        """The canonical layout as it is."""
        tensors = [weight.qweight, weight.qzeros, weight.scales]
        return tensors if weight.g_idx is None else [*tensors, weight.g_idx]

    def unpack(self, packed: Sequence[torch.Tensor], shape: Shape) -> QuantizedWeight:
        """The canonical layout as it is."""
        return QuantizedWeight(
            bits=shape.bits,
            group_size=shape.group_size,
            in_features=shape.in_features,
            out_features=shape.out_features,
            qweight=packed[0],
            qzeros=packed[1],
            scales=packed[2],
            g_idx=packed[3] if len(packed) > 3 else None,
        )

    def forward(
        self, x: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape
    ) -> torch.Tensor:
        """x [M, K] times W [K, N], a band of N at a time."""
        y = x.new_empty(x.shape[0], shape.out_features)
        for band, weight in self._bands(packed, shape, x.dtype):
            torch.mm(x, weight, out=y[:, band]) if _fits(y, band) else y[:, band].copy_(x @ weight)
        return y

    def backward(
        self, dy: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape
    ) -> torch.Tensor:
        """dy [M, N] times W transposed, the bands summed in float32."""
        dx = dy.new_zeros(dy.shape[0], shape.in_features, dtype=torch.float32)
        bands = list(_cut(shape))
        for band, weight in self._bands(packed, shape, dy.dtype):
            part = dy[:, band] @ weight.t()
            if len(bands) == 1:
                return part
            dx += part
        return dx.to(dy.dtype)

    def dequantize(
        self, packed: Sequence[torch.Tensor], shape: Shape, dtype: torch.dtype
    ) -> torch.Tensor:
        """W as [K, N] in `dtype`."""
        whole = packed[0].new_empty(shape.in_features, shape.out_features, dtype=dtype)
        for band, weight in self._bands(packed, shape, dtype):
            whole[:, band] = weight
        return whole

    def _bands(
        self, packed: Sequence[torch.Tensor], shape: Shape, dtype: torch.dtype
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        weight = self.unpack(packed, shape)
        for band in _cut(shape):
            yield band, _columns(weight, band).dequantize(dtype)


def _fits(y: torch.Tensor, band: slice) -> bool:
    return bool(band.stop - band.start == y.shape[1])


def _cut(shape: Shape) -> Iterator[slice]:
    """Bands of output features, each of whole words of zeros and about TILE_ELEMENTS weights."""
    run = packing.run_length(shape.bits)
    width = max(run, TILE_ELEMENTS // shape.in_features // run * run)
    for start in range(0, shape.out_features, width):
        yield slice(start, min(start + width, shape.out_features))


def _columns(weight: QuantizedWeight, band: slice) -> QuantizedWeight:
    """The weight of a band of output features, as views."""
    words = slice(
        band.start * weight.bits // packing.WORD,
        -(-band.stop // packing.run_length(weight.bits))
        * packing.run_length(weight.bits)
        * weight.bits
        // packing.WORD,
    )
    return QuantizedWeight(
        bits=weight.bits,
        group_size=weight.group_size,
        in_features=weight.in_features,
        out_features=band.stop - band.start,
        qweight=weight.qweight[:, band],
        qzeros=weight.qzeros[:, words],
        scales=weight.scales[:, band],
        g_idx=weight.g_idx,
    )


register(TorchProvider())
