"""compressed-tensors "pack-quantized": what llm-compressor writes.

weight_packed int32 [N, words(K)] with q + 2**(bits-1), weight_scale [N, G], weight_shape int64
[2] = (N, K); asymmetric layers add weight_zero_point int32 [words(N), G] packed along N, act order
adds weight_g_idx int32 [K]. There W[n, k] = (q - z) * s with signed q and z; adding 2**(bits-1) to
both gives the unsigned ones of the canonical layout, and the difference is the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from accel_kernels.formats import packing
from accel_kernels.formats.canonical import (
    FormatError,
    QuantizedWeight,
    expect_shape,
    from_values,
)

TENSORS = ("weight_packed", "weight_scale", "weight_shape")
BITS = (4, 8)


def read(
    tensors: Mapping[str, torch.Tensor], *, bits: int, group_size: int, name: str = "weight"
) -> QuantizedWeight:
    """A pack-quantized layer's tensors as a weight. Raises FormatError where they do not fit."""
    missing = [key for key in TENSORS if key not in tensors]
    if missing:
        raise FormatError(
            f"{name}: a pack-quantized layer needs {', '.join(missing)}", found=str(sorted(tensors))
        )
    if bits not in BITS:
        raise FormatError(f"{name}: pack-quantized has bits of {BITS}", found=str(bits))
    shape = tensors["weight_shape"].flatten().tolist()
    if len(shape) != 2 or min(shape) <= 0:
        raise FormatError(f"{name}.weight_shape must be two sizes", found=str(shape))
    out_features, in_features = (int(size) for size in shape)
    size = in_features if group_size in (-1, 0) else group_size
    groups = -(-in_features // size)
    packed, scale = tensors["weight_packed"], tensors["weight_scale"]
    expect_shape(
        f"{name}.weight_packed",
        packed,
        (out_features, packing.words_for(in_features, bits)),
        integer=True,
    )
    expect_shape(f"{name}.weight_scale", scale, (out_features, groups), integer=False)
    return from_values(
        packing.unpack(packed, bits, in_features, dim=1).t(),
        _zeros(tensors, bits, out_features, groups, name),
        scale.t(),
        bits=bits,
        group_size=size,
        g_idx=tensors.get("weight_g_idx"),
    )


def _zeros(
    tensors: Mapping[str, torch.Tensor], bits: int, out_features: int, groups: int, name: str
) -> torch.Tensor:
    stored = tensors.get("weight_zero_point")
    if stored is None:
        device = tensors["weight_packed"].device
        return torch.full((groups, out_features), 1 << (bits - 1), dtype=torch.uint8, device=device)
    words = packing.words_for(out_features, bits)
    expect_shape(f"{name}.weight_zero_point", stored, (words, groups), integer=True)
    return packing.unpack(stored, bits, out_features, dim=0).t()


def write(
    weight: QuantizedWeight, *, asymmetric: bool = False, act_order: bool = False
) -> dict[str, torch.Tensor]:
    """The tensors of a pack-quantized layer.

    Zeros are left out where all are in the middle, and the groups where they only count, unless
    `asymmetric` and `act_order` say that the checkpoint has them all the same.
    """
    if weight.bits not in BITS:
        raise FormatError(
            f"pack-quantized has bits of {BITS}",
            found=str(weight.bits),
            remedy="write GPTQ instead",
        )
    zeros = weight.zeros()
    tensors = {
        "weight_packed": packing.pack(weight.values().t(), weight.bits, dim=1),
        "weight_scale": weight.scales.t().contiguous(),
        "weight_shape": torch.tensor([weight.out_features, weight.in_features]),
    }
    if asymmetric or bool((zeros != 1 << (weight.bits - 1)).any()):
        tensors["weight_zero_point"] = packing.pack(zeros.t(), weight.bits, dim=0)
    if act_order or weight.g_idx is not None:
        tensors["weight_g_idx"] = weight.group_of().to(torch.int32)
    return tensors


def empty(
    *,
    bits: int,
    group_size: int,
    in_features: int,
    out_features: int,
    scales_dtype: torch.dtype,
    device: torch.device | str,
    asymmetric: bool = False,
    act_order: bool = False,
) -> dict[str, torch.Tensor]:
    """Tensors of the right shapes and dtypes to load a checkpoint's into."""
    size = in_features if group_size in (-1, 0) else group_size
    groups = -(-in_features // size)
    k_words = packing.words_for(in_features, bits)
    tensors = {
        "weight_packed": torch.zeros(out_features, k_words, dtype=torch.int32, device=device),
        "weight_scale": torch.zeros(out_features, groups, dtype=scales_dtype, device=device),
        "weight_shape": torch.zeros(2, dtype=torch.int64, device=device),
    }
    if asymmetric:
        n_words = packing.words_for(out_features, bits)
        tensors["weight_zero_point"] = torch.zeros(
            n_words, groups, dtype=torch.int32, device=device
        )
    if act_order:
        tensors["weight_g_idx"] = torch.zeros(in_features, dtype=torch.int32, device=device)
    return tensors
