"""Attention kernels in transformers: questions that raise, and kernels given the wrong thing."""

from __future__ import annotations

import functools
from collections.abc import Callable

from accel.values import Feature, Level, Note, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

IMPORT_UTILS = "transformers.utils.import_utils"
QUESTIONS = {
    "is_flash_attn_2_available": "flash_attention_2",
    "is_flash_attn_3_available": "flash_attention_3",
    "is_flash_attn_4_available": "flash_attention_4",
    "is_flash_attn_greater_or_equal": "flash_attention_2",
    "is_flash_attn_greater_or_equal_2_10": "flash_attention_2",
}


def patches(capabilities: Capabilities) -> list[Patch]:
    """What applies to the device by what it has, and to transformers by its version."""
    decisions = capabilities.of(Feature.ATTENTION)
    found = [_question(name, which, capabilities) for name, which in QUESTIONS.items()]
    if any(d.accepted and d.name.startswith("flash_attention") for d in decisions):
        found.append(_sink_guard())
    if capabilities.device.kind != "cpu" and _no_bfloat16(capabilities):
        found.append(_efficient_guard(capabilities))
    return found


def _question(name: str, which: str, capabilities: Capabilities) -> Patch:
    return Patch(
        target=f"{IMPORT_UTILS}:{name}",
        reason="a flash_attn that is importable without metadata (a folder, a source tree) is a "
        "KeyError, and on a card that cannot run it the answer is yes",
        replace=lambda original: _asked(original, which, capabilities),
        distribution="transformers",
        versions=">=4.51",
        upstream="https://github.com/huggingface/transformers/pull/45524",
        until="transformers asks the device, and takes a package without metadata as absent",
        symptom="KeyError: 'flash_attn'",
        optional=True,
    )


def _asked(
    original: Callable[..., Any], which: str, capabilities: Capabilities
) -> Callable[..., bool]:
    @functools.wraps(original)
    def answer(*args: Any, **kwargs: Any) -> bool:
        try:
            found = bool(original(*args, **kwargs))
        except KeyError as error:
            capabilities.note(
                Note(
                    level=Level.WARNING,
                    subject=str(error.args[0]),
                    message="can be imported but has no metadata, so its version is not known: "
                    "taken as absent",
                    remedy="pip install it, or take its folder off the path",
                    origin="accel_frameworks",
                )
            )
            return False
        if not found or capabilities.find(Feature.ATTENTION, which) is None:
            return found
        return capabilities.supports(Feature.ATTENTION, which)

    for name in ("cache_clear", "cache_info"):
        if hasattr(original, name):
            setattr(answer, name, getattr(original, name))
    return answer


def _sink_guard() -> Patch:
    return Patch(
        target="transformers.modeling_utils",
        reason="FlashAttention calls s_aux.to() although models without attention sinks pass None",
        seam=_register_guarded,
        distribution="transformers",
        versions="==5.6.0",
        upstream="https://github.com/huggingface/transformers/issues/45588",
        until="transformers 5.6.0 is no longer used",
        symptom="AttributeError: 'NoneType' object has no attribute 'to'",
    )


class _NoSink:
    """Says None when it is converted, which is what the callee takes for no sink."""

    def to(self, *args: Any, **kwargs: Any) -> None:
        return None


def _register_guarded(module: Any) -> Callable[[], None]:
    return _registered(module, "flash_attention", _guarded)


def _registered(
    module: Any, prefix: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[[], None]:
    """Register a wrapped function for every attention whose name starts so."""
    interface = module.AttentionInterface
    before = {
        name: function
        for name, function in interface._global_mapping.items()
        if name.startswith(prefix)
    }
    for name, function in before.items():
        interface.register(name, wrap(function))

    def undo() -> None:
        for name, function in before.items():
            interface.register(name, function)

    return undo


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def flash_attention(*args: Any, s_aux: Any = None, **kwargs: Any) -> Any:
        return function(*args, s_aux=_NoSink() if s_aux is None else s_aux, **kwargs)

    return flash_attention


def _no_bfloat16(capabilities: Capabilities) -> bool:
    """From what is declared and installed: nothing is probed while patches are collected."""
    known = [d for d in capabilities.of(Feature.DTYPE) if d.name == "bfloat16"]
    return bool(known) and not any(d.accepted for d in known)


def _efficient_guard(capabilities: Capabilities) -> Patch:
    return Patch(
        target="transformers.modeling_utils",
        reason="a bfloat16 model on a card without bfloat16 is given to the memory-efficient "
        "kernel, which was not compiled for that pair and raises instead of falling back",
        seam=lambda module: _registered(
            module, "sdpa", lambda function: _plain_for_bfloat16(function, capabilities)
        ),
        distribution="transformers",
        versions=">=4.51",
        upstream="https://github.com/huggingface/transformers/issues/28731",
        until="torch falls back to its math kernel by itself",
        symptom="RuntimeError: cutlassF: no kernel found to launch!",
    )


def _plain_for_bfloat16(
    function: Callable[..., Any], capabilities: Capabilities
) -> Callable[..., Any]:
    @functools.wraps(function)
    def sdpa(module: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        if query.dtype is not torch.bfloat16:
            return function(module, query, *args, **kwargs)
        capabilities.note(
            Note(
                level=Level.DOWNGRADE,
                subject="sdpa",
                message=f"bfloat16 on {capabilities.device.name} goes through torch's math "
                "kernel: the fused ones have no code for it",
                remedy="load the model in float16 or float32",
                origin="accel_frameworks",
            )
        )
        with sdpa_kernel([SDPBackend.MATH]):
            return function(module, query, *args, **kwargs)

    return sdpa
