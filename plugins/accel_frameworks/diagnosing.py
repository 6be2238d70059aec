"""Why a run went wrong, measured on the run itself: lost losses, and kernels for another card."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Mapping

from accel.errors import AccelError
from accel.values import Feature

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

FIRST_STEPS = 10
"""Optimiser steps in which every loss is looked at, which costs a wait for the device each."""

NO_KERNEL = (
    "no kernel image is available",
    "invalid device function",
    "no kernel found to launch",
    "PTX was compiled with an unsupported toolchain",
)
UNKNOWN_LIST = "its list of architectures is not known"


class LostLoss(AccelError):
    """The loss is 0 or not a number: training on would only ruin the weights."""


class NoKernel(AccelError, RuntimeError):
    """torch has no code for this card's architecture."""


def explain(error: BaseException, capabilities: Capabilities) -> NoKernel | None:
    """A NoKernel for an error of a device that has no code; None for any other error."""
    text = str(error)
    words = next((words for words in NO_KERNEL if words in text), None)
    if words is None:
        return None
    import torch

    device = capabilities.device
    module = torch.get_device_module(device.kind)
    ask = getattr(module, "get_arch_list", None)
    built = list(ask()) if ask is not None else []
    listed = f"this torch {torch.__version__} has code for {' '.join(built)}"
    return NoKernel(
        f"{device.name} ({device.arch}) has no kernel for what was asked: {words}",
        found=f"the card is {device.arch}; {listed if built else UNKNOWN_LIST}",
        remedy="accel doctor",
    )


def check_loss(
    trainer: Any, model: Any, inputs: Any, loss: Any, capabilities: Capabilities
) -> None:
    """Raise LostLoss where the loss of one of the first steps is lost, with what was measured.

    A loss of exactly 0 is lost only if its gradients are, too: some methods start at 0.
    """
    if trainer.state.global_step >= FIRST_STEPS:
        return
    value = float(loss)
    finite = math.isfinite(value)
    if finite and (value != 0.0 or _gradients_live(model)):
        return
    causes = list(_causes(trainer, model, inputs, capabilities))
    raise LostLoss(
        f"the loss is {value:g} in step {trainer.state.global_step + 1}: training stopped",
        found="; ".join(cause for cause, _ in causes) or "nothing that accel knows to measure",
        remedy=next((remedy for _, remedy in causes if remedy), "accel doctor"),
    )


def _gradients_live(model: Any) -> bool:
    """Whether some gradient is neither zero nor lost."""
    for parameter in model.parameters():
        gradient = parameter.grad
        if not _has_largest(gradient):
            continue
        largest = _largest(gradient)
        if math.isfinite(largest) and largest > 0.0:
            return True
    return not any(p.requires_grad and p.grad is not None for p in model.parameters())


def _causes(
    trainer: Any, model: Any, inputs: Any, capabilities: Capabilities
) -> list[tuple[str, str]]:
    """What was found, each with its remedy, the likeliest first."""
    found = [
        _labels(inputs),
        _weights(model),
        _half_trainable(model),
        _dtype(model, capabilities),
        *_again(trainer, model, inputs),
    ]
    return [cause for cause in found if cause is not None]


def _labels(inputs: Any) -> tuple[str, str] | None:
    labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
    if labels is None or labels.dim() < 2 or bool((labels[:, 1:] != -100).any()):
        return None
    return (
        "no token of this batch has a label (all are -100)",
        "a longer cutoff_len, or a template that leaves the answers in",
    )


def _weights(model: Any) -> tuple[str, str] | None:
    lost = [name for name, p in model.named_parameters() if not bool(p.detach().isfinite().all())]
    if not lost:
        return None
    return f"{len(lost)} parameters are not finite, the first is {lost[0]}", "load the model anew"


def _half_trainable(model: Any) -> tuple[str, str] | None:
    import torch

    half = [n for n, p in model.named_parameters() if p.requires_grad and p.dtype is torch.float16]
    if not half:
        return None
    return (
        f"{len(half)} trainable parameters are float16, the first is {half[0]}",
        "load the model in float32 with fp16: true, or in bfloat16",
    )


def _dtype(model: Any, capabilities: Capabilities) -> tuple[str, str] | None:
    dtypes = Counter(str(p.dtype).removeprefix("torch.") for p in model.parameters())
    dtype = max(dtypes, key=lambda name: dtypes[name])
    found = capabilities.find(Feature.DTYPE, dtype)
    device = capabilities.device
    best = capabilities.best(Feature.DTYPE)
    remedy = f"dtype: {best.name}" if best is not None else ""
    if found is not None and not found.accepted:
        return f"the model is {dtype}, which {device.name} has not: {found.reason}", remedy
    if dtype == "float16":
        return "the model is float16, whose largest number is 65504", remedy
    return None


def _again(trainer: Any, model: Any, inputs: Any) -> list[tuple[str, str] | None]:
    """The same batch once more, watching every module; and once with plain attention."""
    if not isinstance(inputs, Mapping):
        return []
    first = _first_lost(trainer, model, inputs)
    if first is None:
        return []
    causes: list[tuple[str, str] | None] = [(first, "")]
    config = getattr(model, "config", None)
    now = getattr(config, "_attn_implementation", None)
    if now not in (None, "eager"):
        with _attention(config, "eager"):
            plain = _first_lost(trainer, model, inputs)
        if plain is None:
            causes.append((f"with eager attention it is not lost, with {now} it is", "attn: eager"))
    return causes


@contextlib.contextmanager
def _attention(config: Any, name: str) -> Any:
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def _has_largest(value: Any) -> bool:
    """Whether it is a tensor with numbers in it: masks and empty ones have no largest."""
    import torch

    return isinstance(value, torch.Tensor) and value.numel() > 0 and value.dtype is not torch.bool


def _largest(tensor: Any) -> float:
    return float(tensor.detach().abs().max())


def _first_lost(trainer: Any, model: Any, inputs: Any) -> str | None:
    """The first module whose output is not finite, with the largest number that went in."""
    import torch

    seen: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: Any, given: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if seen or not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                return
            if not bool(tensor.isfinite().all()):
                taken = next((t for t in given if _has_largest(t)), None)
                most = "" if taken is None else f", from an input of at most {_largest(taken):.3g}"
                what = f"{type(module).__name__}, {tensor.dtype}"
                seen.append(f"{name} ({what}) is the first to lose it{most}")

        return hook

    handles = [
        module.register_forward_hook(watch(name or "the model"))
        for name, module in model.named_modules()
        if not any(True for _ in module.children())
    ]
    try:
        with torch.no_grad(), trainer.compute_loss_context_manager():
            trainer.compute_loss(model, trainer._prepare_inputs(dict(inputs)))
    except RuntimeError as error:
        return f"the batch cannot be repeated: {error}"
    finally:
        for handle in handles:
            handle.remove()
    return seen[0] if seen else None
