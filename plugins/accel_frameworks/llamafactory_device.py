"""LLaMA-Factory's own questions about the device, answered for the one that was chosen."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable

from accel.values import Device, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

MISC = "llamafactory.extras.misc"
DISTRIBUTION = "llamafactory"
VERSIONS = ">=0.9.4,<0.10"
ISSUE = "https://github.com/hiyouga/LLaMA-Factory/issues/6429"
PEAK = ("max_memory_allocated", "max_memory_reserved")


def patches(capabilities: Capabilities) -> list[Patch]:
    """One for each function of its ladder; the copies that its other modules hold follow."""
    device = capabilities.device
    answers: dict[str, Callable[[], Any]] = {
        "get_current_device": lambda: current_device(device),
        "get_device_count": lambda: device_count(device),
        "get_torch_device": lambda: _module(device),
        "is_accelerator_available": lambda: device.kind != "cpu",
        "get_current_memory": lambda: current_memory(device),
        "get_peak_memory": lambda: peak_memory(device),
        "torch_gc": lambda: collect(device),
    }
    found = [_scores(device)] if device.kind != "cuda" else []
    return [
        *found,
        *(
            Patch(
                target=f"{MISC}:{name}",
                reason="it goes through a ladder of four device types: on others the model goes to "
                "the CPU, several cards are counted as none, and their memory is never freed",
                replace=functools.partial(_answered, answer),
                distribution=DISTRIBUTION,
                versions=VERSIONS,
                upstream=ISSUE,
                until="LLaMA-Factory asks torch.accelerator",
                symptom="a device that LLaMA-Factory does not know: the model is loaded to the "
                "CPU, and two cards silently train as one",
                optional=name == "is_accelerator_available",
            )
            for name, answer in answers.items()
        ),
    ]


def _scores(device: Device) -> Patch:
    return Patch(
        target="llamafactory.chat.hf_engine:HuggingfaceEngine._get_scores",
        reason="a reward model that does not tell its device is taken to be on `cuda`",
        replace=lambda original: _scored(original, device),
        distribution=DISTRIBUTION,
        versions=VERSIONS,
        upstream="https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/chat/"
        "hf_engine.py#L321",
        until="LLaMA-Factory takes the parameters' device",
        symptom="AssertionError: Torch not compiled with CUDA enabled, from _get_scores",
    )


def _scored(original: Callable[..., Any], device: Device) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(original, "__func__", original)

    @functools.wraps(function)
    def get_scores(model: Any, *args: Any, **kwargs: Any) -> Any:
        inner = model.pretrained_model
        if not hasattr(inner, "device"):
            inner.device = current_device(device)
        return function(model, *args, **kwargs)

    return get_scores


def _answered(answer: Callable[[], Any], original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def ask() -> Any:
        return answer()

    return ask


def current_device(device: Device) -> Any:
    """This process's `torch.device`: the rank's own card, or the one that was chosen."""
    import torch

    if device.kind == "cpu":
        return torch.device("cpu")
    index = os.environ.get("LOCAL_RANK", str(device.index))
    return torch.device(f"{device.kind}:{index}")


def _module(device: Device) -> Any:
    import torch

    return torch.get_device_module(device.kind)


def device_count(device: Device) -> int:
    """How many such devices this process sees; 0 on a CPU, as LLaMA-Factory counts."""
    return 0 if device.kind == "cpu" else int(_module(device).device_count())


def current_memory(device: Device) -> tuple[int, int]:
    """Bytes: free and in all; (0, -1) where the device does not tell."""
    ask = getattr(_module(device), "mem_get_info", None)
    return (0, -1) if device.kind == "cpu" or ask is None else tuple(ask())


def peak_memory(device: Device) -> tuple[int, int]:
    """Bytes: the most that was allocated and reserved; (0, -1) where the device does not tell."""
    module = _module(device)
    if device.kind == "cpu" or not all(hasattr(module, name) for name in PEAK):
        return 0, -1
    allocated, reserved = (int(getattr(module, name)()) for name in PEAK)
    return allocated, reserved


def collect(device: Device) -> None:
    """Collect what is garbage, here and in the device's cache."""
    gc.collect()
    empty = getattr(_module(device), "empty_cache", None)
    if device.kind != "cpu" and empty is not None:
        empty()
