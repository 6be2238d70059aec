"""Probes of the quantised layers that libraries bring: bitsandbytes, torchao.

For a device's facts to name: `accel_frameworks.quantised:bitsandbytes_linear`. As any probe they
run in a child process, compare with float64, and raise to refuse.
"""

from __future__ import annotations

import importlib

from accel.probes.measuring import Refused, dtype_of, named, numbers
from accel.probes.quantised import IN, OUT, frozen_linear


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
    return frozen_linear(f"bitsandbytes {dtype}", layer, weight, true, bits, kind, device)


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
    return frozen_linear(
        f"torchao {config} {dtype}", layer, layer.weight.dequantize(), true, bits, kind, device
    )
