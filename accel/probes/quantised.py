"""Probes of quantised weights: a linear layer's output and the gradient of its input.

The weights are frozen, as under LoRA, so there is no gradient of theirs.
"""

from __future__ import annotations

from typing import Any

from accel.probes.measuring import (
    TOLERANCE,
    Refused,
    check,
    dtype_of,
    error_of,
    inputs,
    line,
    numbers,
)

ROWS, IN, OUT = 32, 256, 128
CODE_ERROR = {4: 0.2, 8: 0.02}
"""Largest error of a weight relative to the largest weight that so many bits may cause."""


def quant_linear_torch(device: str, bits: int, group_size: int = 64, dtype: str = "float16") -> str:
    """Integer weights packed in int32 words, unpacked and scaled by plain torch operations.

    As GPTQ keeps them: words [IN * bits / 32, OUT], scales and zeros [IN / group_size, OUT].
    """
    import torch

    if bits not in {2, 4, 8} or group_size <= 0 or IN % group_size:
        raise Refused(f"no packing for {bits} bits in groups of {group_size}")
    kind = dtype_of(dtype)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2**bits, (IN, OUT), generator=generator)
    zeros = torch.randint(0, 2**bits, (IN // group_size, OUT), generator=generator)
    scales = (numbers(zeros.shape, kind, 5).abs() + 0.1) / 2**bits
    words = _pack(codes, bits).to(device)
    on_device = zeros.to(device), scales.to(device)

    def layer(x: Any) -> Any:
        return x @ _unpack(words, bits, group_size, *on_device)

    groups = torch.arange(IN) // group_size
    exact = (codes - zeros[groups]).double() * scales[groups].double()
    error, ms = check(layer, lambda x: x @ exact, inputs(kind, (ROWS, IN)), device)
    return line(f"{dtype} linear {IN}x{OUT} of {bits} bits, groups of {group_size}", error, ms)


def frozen_linear(
    what: str, layer: Any, weight: Any, true: Any, bits: int, kind: Any, device: str
) -> str:
    """For the probe of a library's quantised layer of IN inputs and OUT outputs: the line it gives.

    Checks `weight`, what the layer's codes of `bits` bits mean, against the `true` one; then what
    the layer computes in the torch dtype `kind`, and the gradient of its input, against `weight`.
    Raises Refused where either is wrong.
    """
    code = error_of("the quantised weight", weight, true.double(), CODE_ERROR[bits])
    exact = weight.detach().cpu().double()
    # eight bits quantise the activations too, which costs two digits
    allowed = 5e-2 if bits == 8 else TOLERANCE[str(kind).removeprefix("torch.")]
    error, ms = check(layer, lambda x: x @ exact.t(), inputs(kind, (ROWS, IN)), device, allowed)
    return line(f"{what} linear {IN}x{OUT}, weights within {code:.1e}", error, ms)


def _pack(codes: Any, bits: int) -> Any:
    """[rows, columns] of codes -> [rows * bits / 32, columns] of int32, the first lowest."""
    import torch

    each = 32 // bits
    shifts = torch.arange(each)[None, :, None] * bits
    words = (codes.reshape(-1, each, codes.shape[1]) << shifts).sum(dim=1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _unpack(words: Any, bits: int, group_size: int, zeros: Any, scales: Any) -> Any:
    import torch

    shifts = torch.arange(0, 32, bits, device=words.device, dtype=torch.int32)
    codes = (words[:, None, :] >> shifts[None, :, None]) & (2**bits - 1)
    codes = codes.reshape(-1, words.shape[1])
    groups = torch.arange(codes.shape[0], device=words.device) // group_size
    return (codes - zeros[groups]).to(scales.dtype) * scales[groups]
