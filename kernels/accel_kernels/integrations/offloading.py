"""Layers that accelerate keeps on the host or on disk and computes elsewhere.

Its hooks know the tensors that a layer had when the model was dispatched; finishing a layer makes
others. So a quantised layer is taken out of its hook: it stays in host memory, and its words go to
where the input is in each forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from accel_kernels.layer import QuantizedLinear


def bring_home(layer: QuantizedLinear) -> torch.device | None:
    """Take an offloaded layer's tensors into host memory, and its hook off.

    Returns the device that it computes on, or None for a layer that is not offloaded.
    """
    hook: Any = getattr(layer, "_hf_hook", None)
    if not getattr(hook, "offload", False):
        return None
    from accelerate.hooks import remove_hook_from_module

    execution = hook.execution_device
    tensors = {
        key: hook.weights_map[key].to("cpu")
        for key, tensor in layer.named_parameters(recurse=False)
        if tensor.is_meta
    }
    remove_hook_from_module(layer)
    for key, tensor in tensors.items():
        setattr(layer, key, nn.Parameter(tensor, requires_grad=False))
    return torch.device(execution if execution is not None else "cpu")
