"""LLaMA-Factory's offloaded gradient checkpointing (`use_unsloth_gc`), on any device."""

from __future__ import annotations

import functools
from collections.abc import Callable

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any


def on_any_device(original: Callable[[], Any]) -> Callable[[], Any]:
    """Hidden states go to the host and come back to where they were, under the same autocast."""

    @functools.wraps(original)
    def get_unsloth_gradient_checkpointing_func() -> Any:
        return _function().apply

    return get_unsloth_gradient_checkpointing_func


@functools.cache
def _function() -> Any:
    import torch

    class OffloadedCheckpoint(torch.autograd.Function):  # type: ignore[misc]
        """Keeps the input of a layer in host memory, and runs the layer again for its gradient."""

        @staticmethod
        def forward(ctx: Any, layer: Any, hidden: Any, *rest: Any) -> Any:
            ctx.layer, ctx.rest = layer, rest
            ctx.device = hidden.device
            kind = hidden.device.type
            ctx.autocast = {
                "device_type": kind,
                "enabled": torch.is_autocast_enabled(kind),
                "dtype": torch.get_autocast_dtype(kind),
                "cache_enabled": torch.is_autocast_cache_enabled(),
            }
            # a copy even on the host: the layer above may change its input in place
            ctx.save_for_backward(hidden.to("cpu", non_blocking=True, copy=True))
            with torch.no_grad():
                return layer(hidden, *rest)

        @staticmethod
        def backward(ctx: Any, gradient: Any, *_others: Any) -> Any:
            (kept,) = ctx.saved_tensors
            hidden = kept.to(ctx.device, non_blocking=True).detach().requires_grad_(True)
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                outputs = ctx.layer(hidden, *ctx.rest)
            output = outputs[0] if isinstance(outputs, tuple) else outputs
            torch.autograd.backward(output, gradient)
            return (None, hidden.grad) + (None,) * len(ctx.rest)

    return OffloadedCheckpoint
