"""GPTQ, v1 and v2: what AutoGPTQ and GPTQModel write.

qweight int32 [words(K), N], qzeros int32 [G, words(N)], scales [G, N], g_idx int32 [K].
v1 (`checkpoint_format: gptq`) stores z - 1 modulo 2**bits, v2 (`gptq_v2`) stores z. Some
checkpoints say v1 and hold v2 zeros; with `sym: true` every z is 2**(bits-1), which tells them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from accel_kernels.formats import packing
from accel_kernels.formats.canonical import (
    FormatError,
    QuantizedWeight,
    plain_groups,
)

TENSORS = ("qweight", "qzeros", "scales", "g_idx")


def read(
    tensors: Mapping[str, torch.Tensor],
    *,
    bits: int,
    group_size: int,
    in_features: int,
    out_features: int,
    v1: bool = True,
    sym: bool = False,
    name: str = "weight",
) -> QuantizedWeight:
    """A GPTQ layer's tensors (`qweight`, `qzeros`, `scales`, optionally `g_idx`) as a weight.

    `group_size` -1 means one group a channel. Raises FormatError where they do not fit.
    """
    missing = [key for key in TENSORS[:3] if key not in tensors]
    if missing:
        raise FormatError(
            f"{name}: a GPTQ layer needs {', '.join(missing)}", found=str(sorted(tensors))
        )
    size = in_features if group_size in (-1, 0) else group_size
    weight = QuantizedWeight(
        bits=bits,
        group_size=size,
        in_features=in_features,
        out_features=out_features,
        qweight=tensors["qweight"],
        qzeros=tensors["qzeros"],
        scales=tensors["scales"],
        g_idx=tensors.get("g_idx"),
    ).check(name)
    weight = dataclasses.replace(weight, g_idx=plain_groups(weight.g_idx, in_features, size))
    if v1 and not (sym and holds_v2_zeros(weight)):
        weight = _shifted(weight, 1)
    return weight


def holds_v2_zeros(weight: QuantizedWeight) -> bool:
    """Whether a symmetric layer's stored zeros are z itself and not z - 1."""
    middle = 1 << (weight.bits - 1)
    return bool((weight.zeros() == middle).all())


def write(
    weight: QuantizedWeight, *, v1: bool = True, as_read: bool = False
) -> dict[str, torch.Tensor]:
    """The tensors of a GPTQ layer, the zeros as v1 or v2 has them.

    Raises FormatError for v1 with a zero of 0, which AutoGPTQ's readers take for 2**bits. With
    `as_read` the words come out as `read` found them, that zero too.
    """
    if v1 and not as_read and bool((weight.zeros() == 0).any()):
        raise FormatError(
            "GPTQ v1 cannot say a zero of 0", remedy="write v2: checkpoint_format 'gptq_v2'"
        )
    stored = _shifted(weight, -1) if v1 else weight
    return {
        "qweight": stored.qweight,
        "qzeros": stored.qzeros,
        "scales": stored.scales,
        "g_idx": weight.group_of().to(torch.int32),
    }


def _shifted(weight: QuantizedWeight, by: int) -> QuantizedWeight:
    """The weight with `by` added to every zero.

    GPTQModel adds and subtracts 1 in all fields of a word at once, so that what it wrote with a
    zero of 0 (a borrow from the next field) comes back right only in the same way. Fields of 3
    bits, which lie across words, it takes out and counts modulo 8, and so does AutoGPTQ.
    """
    bits, words = weight.bits, weight.qzeros
    count = words.shape[1] * packing.WORD // bits
    if packing.WORD % bits:
        zeros = (packing.unpack(words, bits, count, dim=1) + by) % (1 << bits)
        return dataclasses.replace(weight, qzeros=packing.pack(zeros, bits, dim=1))
    ones = packing.pack(torch.ones(1, count), bits, dim=1)
    return dataclasses.replace(weight, qzeros=words + by * ones.to(words.device))


def empty(
    *,
    bits: int,
    group_size: int,
    in_features: int,
    out_features: int,
    scales_dtype: torch.dtype,
    device: torch.device | str,
) -> dict[str, torch.Tensor]:
    """Tensors of the right shapes and dtypes to load a checkpoint's into."""
    size = in_features if group_size in (-1, 0) else group_size
    groups = -(-in_features // size)
    k_words = packing.words_for(in_features, bits)
    n_words = packing.words_for(out_features, bits)
    return {
        "qweight": torch.zeros(k_words, out_features, dtype=torch.int32, device=device),
        "qzeros": torch.zeros(groups, n_words, dtype=torch.int32, device=device),
        "scales": torch.zeros(groups, out_features, dtype=scales_dtype, device=device),
        "g_idx": torch.zeros(in_features, dtype=torch.int32, device=device),
    }
