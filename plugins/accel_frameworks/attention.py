"""The attention a model asks for, answered by what the device has and the model can do."""

from __future__ import annotations

from accel.values import Feature, Level, Note, Stage

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

KNOWN = ("flash_attention_2", "flash_attention_3", "sdpa", "eager")
"""What plugins declare; anything else (a kernel from the hub, say) is left alone."""

PAGED = "paged|"


def settle(model: Any, requested: str | None, capabilities: Capabilities) -> str | None:
    """What `model` (a class, or an instance) shall use where `requested` was asked for.

    None stays None, the library's own choice, unless the user named an attention in `auto()` or
    the device has no SDPA at all. Raises CapabilityUnavailable under `strict`.
    """
    if not capabilities.of(Feature.ATTENTION):
        return requested
    name = model.__name__ if isinstance(model, type) else type(model).__name__
    if requested is None:
        return _default(model, name, capabilities)
    paged = PAGED if requested.startswith(PAGED) else ""
    base = requested.removeprefix(PAGED)
    if base not in KNOWN or _served_by_hub(base, capabilities):
        return requested
    asked_by = f"{name}(attn_implementation={requested!r})"
    use = capabilities.settle(Feature.ATTENTION, base, asked_by=asked_by)
    return requested if use == base else paged + _fitting(model, name, use, capabilities)


def _default(model: Any, name: str, capabilities: Capabilities) -> str | None:
    own = capabilities.wanted.get(Feature.ATTENTION)
    if own in KNOWN:
        return own if fits(model, own) else _fitting(model, name, own, capabilities)
    sdpa = capabilities.find(Feature.ATTENTION, "sdpa")
    if sdpa is None or sdpa.accepted or not fits(model, "sdpa"):
        return None
    capabilities.note(
        Note(
            level=Level.DOWNGRADE,
            subject=name,
            message=f"eager attention is used on {capabilities.device.name}: sdpa {sdpa.reason}",
            origin="accel_frameworks",
        )
    )
    return "eager"


def fits(model: Any, attention: str) -> bool:
    """Whether the model's class says that it can use `attention`."""
    if attention.startswith("flash_attention"):
        return bool(
            getattr(model, "_supports_flash_attn", False)
            or getattr(model, "_supports_flash_attn_2", False)
        )
    return bool(getattr(model, "_supports_sdpa", True)) if attention == "sdpa" else True


def _fitting(model: Any, name: str, use: str, capabilities: Capabilities) -> str:
    """`use`, or the next best that the model's class can do; said, where it is not the same."""
    if fits(model, use):
        return use
    sdpa = capabilities.supports(Feature.ATTENTION, "sdpa") and fits(model, "sdpa")
    instead = "sdpa" if sdpa else "eager"
    capabilities.note(
        Note(
            level=Level.DOWNGRADE,
            subject=name,
            message=f"{instead} attention is used: this model has no {use}",
            origin="accel_frameworks",
        )
    )
    return instead


def _served_by_hub(name: str, capabilities: Capabilities) -> bool:
    """Whether all that is missing is a package, and the library fetches such kernels itself."""
    if not name.startswith("flash_attention"):
        return False
    found = capabilities.find(Feature.ATTENTION, name)
    if found is None or found.accepted or found.stage is not Stage.INSTALLED:
        return False
    import importlib.util

    return importlib.util.find_spec("kernels") is not None
