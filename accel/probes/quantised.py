"""Probes of quantised weights: a linear layer's output and the gradient of its input.

The weights are frozen, as under LoRA, so there is no gradient of theirs.
"""

from __future__ import annotations

import importlib
from typing import Any

from accel.probes.measuring import (
    TOLERANCE,
    Refused,
    check,
    dtype_of,
    error_of,
    inputs,
    line,
    named,
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


def bitsandbytes_linear(device: str, bits: int, dtype: str = "float16") -> str:
    """A layer of bitsandbytes: NF4 for 4 bits, LLM.int8 for 8."""
    import torch

    bnb = importlib.import_module("bitsandbytes")
    kind = dtype_of(dtype)
    if bits == 4:
        layer = bnb.nn.Linear4bit(IN, OUT, bias=False, compute_dtype=kind, quant_type="nf4")
    elif bits == 8:
        layer = bnb.nn.Linear8bitLt(IN, OUT, bias=False, has_fp16_weights=False, threshold=0.0)
    else:
        raise Refused(f"bitsandbytes has no layer of {bits} bits")
    true = numbers((OUT, IN), torch.float32, 7) / IN**0.5
    layer.weight.data.copy_(true)
    layer = layer.to(kind).to(device).requires_grad_(False)
    if bits == 4:
        weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    else:
        layer(torch.zeros(1, IN, dtype=kind, device=device))  # its state is made by a first call
        state = layer.state
        weight = state.CB.float() * state.SCB.float()[:, None] / 127.0
    return _frozen(f"bitsandbytes {dtype}", layer, weight, true, bits, kind, device)


def torchao_linear(device: str, config: str, bits: int = 4, dtype: str = "bfloat16") -> str:
    """A layer quantised by torchao's `config`, the name of a class in torchao.quantization."""
    import torch

    quantization = importlib.import_module("torchao.quantization")
    kind = dtype_of(dtype)
    true = numbers((OUT, IN), torch.float32, 7) / IN**0.5
    layer = torch.nn.Linear(IN, OUT, bias=False)
    layer.weight.data.copy_(true)
    layer = layer.to(kind).to(device).requires_grad_(False)
    quantization.quantize_(layer, named(f"torchao.quantization:{config}")())
    if type(layer.weight.data) is torch.Tensor or not hasattr(layer.weight, "dequantize"):
        raise Refused(f"{config} left the weight as it was")
    return _frozen(
        f"torchao {config} {dtype}", layer, layer.weight.dequantize(), true, bits, kind, device
    )


def _frozen(
    what: str, layer: Any, weight: Any, true: Any, bits: int, kind: Any, device: str
) -> str:
    """Check the codes against the true weight, then the layer against what its codes mean."""
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
