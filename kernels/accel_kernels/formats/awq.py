"""AWQ "gemm": what AutoAWQ, GPTQModel and llm-awq's converters write. Four bits only.

qweight int32 [K, N/8], qzeros int32 [G, N/8], scales [G, N]. Nibble i of a word holds column
8c + (0, 2, 4, 6, 1, 3, 5, 7)[i]; zeros are stored as they are, and 0 is a legal one.
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

TENSORS = ("qweight", "qzeros", "scales")
BITS = 4
PER_WORD = packing.WORD // BITS
COLUMN_OF_NIBBLE = (0, 2, 4, 6, 1, 3, 5, 7)
NIBBLE_OF_COLUMN = (0, 4, 1, 5, 2, 6, 3, 7)


def read(
    tensors: Mapping[str, torch.Tensor],
    *,
    group_size: int,
    in_features: int,
    out_features: int,
    bits: int = BITS,
    name: str = "weight",
) -> QuantizedWeight:
    """An AWQ layer's tensors as a weight. Raises FormatError where they do not fit."""
    if bits != BITS:
        raise FormatError(f"{name}: AWQ gemm has 4 bits", found=f"bits={bits}")
    missing = [key for key in TENSORS if key not in tensors]
    if missing:
        raise FormatError(
            f"{name}: an AWQ layer needs {', '.join(missing)}", found=str(sorted(tensors))
        )
    size = in_features if group_size in (-1, 0) else group_size
    if out_features % PER_WORD or in_features % size:
        raise FormatError(
            f"{name}: AWQ needs out_features divisible by {PER_WORD} and in_features by group_size",
            found=f"out_features={out_features}, in_features={in_features}, group_size={size}",
        )
    columns, groups = out_features // PER_WORD, in_features // size
    expect_shape(f"{name}.qweight", tensors["qweight"], (in_features, columns), integer=True)
    expect_shape(f"{name}.qzeros", tensors["qzeros"], (groups, columns), integer=True)
    expect_shape(f"{name}.scales", tensors["scales"], (groups, out_features), integer=False)
    if in_features % PER_WORD:
        return from_values(
            _columns(tensors["qweight"], out_features),
            _columns(tensors["qzeros"], out_features),
            tensors["scales"],
            bits=BITS,
            group_size=size,
        )
    return QuantizedWeight(
        bits=BITS,
        group_size=size,
        in_features=in_features,
        out_features=out_features,
        qweight=_turned(tensors["qweight"]),
        qzeros=packing.pack(_columns(tensors["qzeros"], out_features), BITS, dim=1),
        scales=tensors["scales"].contiguous(),
    ).check(name)


def _turned(words: torch.Tensor) -> torch.Tensor:
    """AWQ words along N [K, N/8] -> words along K [K/8, N], eight rows at once."""
    rows, columns = words.shape[0] // PER_WORD, words.shape[1]
    eight = words.unflatten(0, (rows, PER_WORD))
    turned = words.new_empty(rows, columns, PER_WORD)
    for part in packing.cached_rows(rows, columns, words.device):
        by_nibble = packing.transpose_nibbles(eight[part].unbind(1))
        torch.stack([by_nibble[nibble] for nibble in NIBBLE_OF_COLUMN], 2, out=turned[part])
    return turned.flatten(1)


def _turned_back(words: torch.Tensor) -> torch.Tensor:
    """Words along K [K/8, N] -> AWQ words along N [K, N/8]; the inverse of `_turned`."""
    rows, columns = words.shape[0], words.shape[1] // PER_WORD
    eight = words.unflatten(1, (columns, PER_WORD))
    turned = words.new_empty(rows, PER_WORD, columns)
    for part in packing.cached_rows(rows, columns, words.device):
        by_column = eight[part].unbind(2)
        by_nibble = [by_column[column] for column in COLUMN_OF_NIBBLE]
        torch.stack(packing.transpose_nibbles(by_nibble), 1, out=turned[part])
    return turned.flatten(0, 1)


def _columns(words: torch.Tensor, out_features: int) -> torch.Tensor:
    """AWQ words [R, N/8] -> values uint8 [R, N] in the order of the columns."""
    nibbles = packing.unpack(words, BITS, out_features, dim=1).unflatten(1, (-1, PER_WORD))
    return nibbles[:, :, list(NIBBLE_OF_COLUMN)].flatten(1)


def write(weight: QuantizedWeight) -> dict[str, torch.Tensor]:
    """The tensors of an AWQ layer. Raises FormatError for what AWQ cannot say."""
    if weight.bits != BITS or weight.g_idx is not None:
        raise FormatError(
            "AWQ gemm has 4 bits and no act order",
            found=f"bits={weight.bits}, desc_act={weight.g_idx is not None}",
            remedy="write GPTQ instead",
        )
    if weight.out_features % PER_WORD or weight.in_features % weight.group_size:
        raise FormatError(
            f"AWQ needs out_features divisible by {PER_WORD} and in_features by group_size",
            found=f"{weight.out_features}, {weight.in_features} and {weight.group_size}",
        )
    return {
        "qweight": _words(weight.values())
        if weight.in_features % PER_WORD
        else _turned_back(weight.qweight),
        "qzeros": _words(weight.zeros()),
        "scales": weight.scales,
    }


def _words(values: torch.Tensor) -> torch.Tensor:
    ordered = values.unflatten(1, (-1, PER_WORD))[:, :, list(COLUMN_OF_NIBBLE)].flatten(1)
    return packing.pack(ordered, BITS, dim=1)


def empty(
    *,
    group_size: int,
    in_features: int,
    out_features: int,
    scales_dtype: torch.dtype,
    device: torch.device | str,
) -> dict[str, torch.Tensor]:
    """Tensors of the right shapes and dtypes to load a checkpoint's into."""
    size = in_features if group_size in (-1, 0) else group_size
    groups, columns = in_features // size, out_features // PER_WORD
    return {
        "qweight": torch.zeros(in_features, columns, dtype=torch.int32, device=device),
        "qzeros": torch.zeros(groups, columns, dtype=torch.int32, device=device),
        "scales": torch.zeros(groups, out_features, dtype=scales_dtype, device=device),
    }
