"""peft: half a quantisation toolkit must not stop plain LoRA, and `cuda` is not every device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from accel.hookspecs import hookimpl
from accel.values import Device, Level, Note, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities


@hookimpl
def accel_patches(device: Device, capabilities: Capabilities) -> Iterable[Patch]:
    """On every device what is installed decides; on others than those peft knows, two more."""
    patches = [
        Patch(
            target="peft.import_utils:is_gptqmodel_available",
            reason="gptqmodel without a fitting optimum makes this question raise ImportError, "
            "and it is asked for every layer of every LoRA",
            replace=lambda original: _answered(original, capabilities),
            distribution="peft",
            versions=">=0.15,<0.22",
            upstream="https://github.com/huggingface/peft/blob/v0.18.1/src/peft/import_utils.py#L53",
            until="peft asks only for layers that are quantised",
            symptom="ImportError: gptqmodel requires optimum version `1.24.0` or higher to be "
            "installed.",
        )
    ]
    if device.kind != "cuda":
        patches.append(_tokens(device))
    if device.kind not in OFFLOADS_TO:
        patches.append(_dora(device))
    return patches


def _tokens(device: Device) -> Patch:
    return Patch(
        target="peft.tuners.trainable_tokens.layer:TrainableTokensLayer._collect_token_weights",
        reason="under ZeRO-3 the rows of the trainable tokens are collected on `cuda`, whatever "
        "the device",
        replace=lambda original: _collected(original, device),
        distribution="peft",
        versions=">=0.15",
        parameters=("weight", "rows", "embed_dim"),
        upstream="https://github.com/huggingface/peft/blob/v0.18.1/src/peft/tuners/"
        "trainable_tokens/layer.py#L90",
        until="peft takes the weight's device",
        symptom="AssertionError: Torch not compiled with CUDA enabled, from _collect_token_weights",
    )


def _collected(original: Callable[..., Any], device: Device) -> Callable[..., Any]:
    """The same by peft's own parts, on the device that is there."""
    namespace = original.__globals__

    @functools.wraps(original)
    def collect(self: Any, weight: Any, rows: Any, embed_dim: int) -> Any:
        import torch
        import torch.distributed as dist

        with namespace["gather_params_ctx"]([weight], modifier_rank=None):
            if dist.is_available() and dist.is_initialized() and dist.get_rank() == 0:
                found = weight[rows].clone()
            else:
                shape = (len(rows), embed_dim)
                found = torch.empty(shape, dtype=weight.dtype, device=device.torch_name)
        dist.broadcast(found, src=0)
        return found

    return collect


OFFLOADS_TO = ("cuda", "xpu")
"""The device types that DoRA's ephemeral offload knows."""


def _dora(device: Device) -> Patch:
    return Patch(
        target="peft.tuners.lora.variants:DoraLinearVariant.init",
        reason="with ephemeral_gpu_offload the weights go to `cuda` for their norm, whatever the "
        "device",
        replace=_in_place,
        distribution="peft",
        versions=">=0.16",
        parameters=("module", "adapter_name"),
        upstream="https://github.com/huggingface/peft/blob/v0.18.1/src/peft/tuners/lora/"
        "variants.py#L151",
        until="peft offloads to the device that is there",
        symptom="AssertionError: Torch not compiled with CUDA enabled, with use_dora and "
        "ephemeral_gpu_offload",
        optional=True,
    )


def _in_place(original: Callable[..., None]) -> Callable[..., None]:
    """The norm is computed where the weights are: slower at most, and only while loading."""

    @functools.wraps(original)
    def init(module: Any, adapter_name: str, **kwargs: Any) -> None:
        before, module.ephemeral_gpu_offload = module.ephemeral_gpu_offload, False
        try:
            original(module, adapter_name, **kwargs)
        finally:
            module.ephemeral_gpu_offload = before

    return init


def _answered(original: Callable[..., bool], capabilities: Capabilities) -> Callable[..., bool]:
    @functools.wraps(original)
    def is_gptqmodel_available(*args: Any, **kwargs: Any) -> bool:
        try:
            return original(*args, **kwargs)
        except ImportError as error:
            capabilities.note(
                Note(
                    level=Level.WARNING,
                    subject="gptqmodel",
                    message=f"taken as absent by peft: {error}",
                    remedy="pip install 'optimum>=1.24'",
                    origin="accel_frameworks",
                )
            )
            return False

    return is_gptqmodel_available
