"""The layout that the kernels read, made from the canonical one and turned back bit for bit.

- `words`: int16 [n_chunks, k_chunks, 1024], each chunk 64 output by `256 / bits` input features;
  see `expand.py` for the order within. K and N are padded to multiples of 128.
- `meta`: int32 [1, G, N padded]: a 16-bit scale in the low half, the zero above it; or
  [2, G, N padded]: a float32 scale, then the zero.
- `marker`: an empty tensor in the dtype of the scales.
- where the checkpoint permutes groups (`desc_act`): `order`, int32 [K], the input features sorted
  by group, and `inverse`, int32 [K], its inverse. The words are in that order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from accel_kernels.formats import QuantizedWeight, packing
from accel_kernels.providers import Shape

ROWS = 64
CHUNK = 1024
PADDING = 128
BAND = 2048
"""Output features packed at a time: a band of a large layer takes tens of MiB, not all of it."""

_SCALES = {torch.float16: 1, torch.bfloat16: 1, torch.float32: 2}


@dataclasses.dataclass(frozen=True)
class Packed:
    """The tensors of the layout, by name, and the numbers that kernels ask for."""

    words: torch.Tensor
    meta: torch.Tensor
    marker: torch.Tensor
    order: torch.Tensor | None
    inverse: torch.Tensor | None

    @classmethod
    def of(cls, packed: Sequence[torch.Tensor]) -> Packed:
        """The tensors that `pack` gave."""
        order, inverse = packed[3:5] if len(packed) > 3 else (None, None)
        return cls(packed[0], packed[1], packed[2], order, inverse)

    @property
    def k_chunks(self) -> int:
        return int(self.words.shape[1])

    @property
    def n_padded(self) -> int:
        return int(self.meta.shape[2])

    @property
    def groups(self) -> int:
        return int(self.meta.shape[1])


def chunk_inputs(bits: int) -> int:
    """Input features of a chunk."""
    return 256 // bits


def refusal(weight: QuantizedWeight) -> str | None:
    """Why this layout cannot hold the weight, or None."""
    if weight.bits not in (2, 4, 8):
        return f"{weight.bits}-bit values straddle words; its layout has 2, 4 and 8 bits"
    if weight.scales.dtype not in _SCALES:
        return f"scales are {str(weight.scales.dtype).removeprefix('torch.')}, not of 16 or 32 bits"
    if weight.g_idx is not None and not _regular(weight):
        return "g_idx does not put group_size input features into every group"
    return None


def _regular(weight: QuantizedWeight) -> bool:
    assert weight.g_idx is not None
    counted = torch.arange(weight.in_features, device=weight.g_idx.device) // weight.group_size
    return bool(torch.equal(weight.g_idx.to(torch.int64).sort().values, counted))


def pack(weight: QuantizedWeight) -> list[torch.Tensor]:
    """words, meta, marker and, with act order, order and inverse."""
    order = inverse = None
    if weight.g_idx is not None:
        order = weight.g_idx.argsort(stable=True)
        inverse = order.argsort().to(torch.int32)
    packed = [_pack_words(weight, order), _pack_meta(weight), weight.scales.new_empty(0)]
    if order is not None and inverse is not None:
        packed += [order.to(torch.int32), inverse]
    return packed


def unpack(tensors: Sequence[torch.Tensor], shape: Shape) -> QuantizedWeight:
    """The weight that `pack` took."""
    packed = Packed.of(tensors)
    scales, zeros = _unpack_meta(packed, shape.out_features)
    g_idx = None
    if packed.inverse is not None:
        g_idx = (packed.inverse // shape.group_size).to(torch.int32)
    return QuantizedWeight(
        bits=shape.bits,
        group_size=shape.group_size,
        in_features=shape.in_features,
        out_features=shape.out_features,
        qweight=_unpack_words(packed, shape),
        qzeros=packing.pack(zeros, shape.bits, dim=1),
        scales=scales,
        g_idx=g_idx,
    )


def _padded(count: int) -> int:
    return -(-count // PADDING) * PADDING


def _pack_words(weight: QuantizedWeight, order: torch.Tensor | None) -> torch.Tensor:
    bits, inputs = weight.bits, weight.in_features
    k_padded, n_padded = _padded(inputs), _padded(weight.out_features)
    k_chunks = k_padded // chunk_inputs(bits)
    words = weight.qweight.new_empty((n_padded // ROWS, k_chunks, CHUNK), dtype=torch.int16)
    for start in range(0, n_padded, BAND):
        stop = min(start + BAND, n_padded)
        values = packing.unpack(weight.qweight[:, start:stop], bits, inputs, dim=0)
        if order is not None:
            values = values[order]
        missing = (0, stop - start - values.shape[1], 0, k_padded - inputs)
        values = torch.nn.functional.pad(values, missing)
        words[start // ROWS : stop // ROWS] = _chunks(values, bits)
    return words


def _chunks(values: torch.Tensor, bits: int) -> torch.Tensor:
    """q [K, N] of whole chunks -> int16 [N / 64, K * bits / 256, 1024]."""
    fields = 16 // bits
    split = values.reshape(-1, fields, 2, 4, 2, values.shape[1] // ROWS, 4, 2, 8)
    word = split[:, 0].to(torch.int32)
    for field in range(1, fields):
        word |= split[:, field].to(torch.int32) << (bits * field)
    # kc k3 k21 k0 nc n54 n3 n210 -> nc kc n54 n210 k21 k3 n3 k0
    ordered = word.permute(4, 0, 5, 7, 2, 1, 6, 3)
    return ordered.reshape(ordered.shape[0], ordered.shape[1], CHUNK).to(torch.int16)


def _unpack_words(packed: Packed, shape: Shape) -> torch.Tensor:
    bits, fields = shape.bits, 16 // shape.bits
    bands = []
    for start in range(0, packed.words.shape[0], BAND // ROWS):
        chunks = packed.words[start : start + BAND // ROWS]
        word = chunks.reshape(*chunks.shape[:2], 4, 8, 4, 2, 2, 2).permute(1, 5, 4, 7, 0, 2, 6, 3)
        split = [((word.to(torch.int32) >> (bits * field)) & ((1 << bits) - 1)).to(torch.uint8)
                 for field in range(fields)]  # fmt: skip
        values = torch.stack(split, dim=1).reshape(-1, chunks.shape[0] * ROWS)
        values = values[: shape.in_features]
        if packed.inverse is not None:
            values = values[packed.inverse.to(torch.int64)]
        bands.append(packing.pack(values, bits, dim=0))
    return torch.cat(bands, dim=1)[:, : shape.out_features].contiguous()


def _pack_meta(weight: QuantizedWeight) -> torch.Tensor:
    zeros, scales = weight.zeros().to(torch.int32), weight.scales.contiguous()
    if _SCALES[scales.dtype] == 1:
        planes = ((scales.view(torch.int16).to(torch.int32) & 0xFFFF) | (zeros << 16)).unsqueeze(0)
    else:
        planes = torch.stack([scales.view(torch.int32), zeros])
    missing = _padded(weight.out_features) - weight.out_features
    return torch.nn.functional.pad(planes, (0, missing))


def _unpack_meta(packed: Packed, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    planes = packed.meta[:, :, :outputs].contiguous()
    if planes.shape[0] == 1:
        scales = planes[0].to(torch.int16).view(packed.marker.dtype)
        return scales, (planes[0] >> 16).to(torch.uint8)
    return planes[0].view(torch.float32), planes[1].to(torch.uint8)
