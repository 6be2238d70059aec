"""TrainingArguments as the device can honour them: precision, tf32, optimiser, backend."""

from __future__ import annotations

import importlib
import os
import sys

from accel.values import Feature
from accel_frameworks import precision
from accel_frameworks.switching import instead, refusal

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities


PLAIN_ADAMW = "adamw_torch"
FUSED_ADAMW = {
    "adamw_apex_fused": ("apex.optimizers", "FusedAdam"),
    "adamw_torch_npu_fused": ("torch_npu.optim", "NpuFusedAdamW"),
}
"""The optimisers that are AdamW from a package for certain cards, and where they come from."""


def settle(arguments: Any, capabilities: Capabilities) -> None:
    """Change on `arguments` (before they are checked) what could not be honoured, and say so.

    Raises CapabilityUnavailable under `strict`.
    """
    name = type(arguments).__name__
    precision.settle_flags(arguments, capabilities, name)
    _tf32(arguments, capabilities, name)
    _optimiser(arguments, capabilities, name)
    _backend(arguments, capabilities)


def _tf32(arguments: Any, capabilities: Capabilities, name: str) -> None:
    if not getattr(arguments, "tf32", None):
        return
    reason = refusal(capabilities, Feature.DTYPE, "tf32") or _no_switch(capabilities)
    if reason is not None:
        instead(capabilities, f"{name}(tf32=True)", use="tf32 is off", reason=reason)
        arguments.tf32 = None


def _no_switch(capabilities: Capabilities) -> str | None:
    """Why transformers cannot turn TF32 on, which it raises for; None on CUDA, which it asks."""
    if capabilities.device.kind == "cuda":
        return None
    transformers = sys.modules.get("transformers.utils.import_utils")
    available = getattr(transformers, "is_torch_tf32_available", None)
    if available is None or available():
        return None
    return "transformers turns it on for CUDA and MUSA alone; the device's own setting holds"


def _optimiser(arguments: Any, capabilities: Capabilities, name: str) -> None:
    asked = getattr(arguments, "optim", "")
    asked = str(getattr(asked, "value", asked))
    if asked not in FUSED_ADAMW:
        return
    reason = _lacking(*FUSED_ADAMW[asked])
    if reason is not None:
        by = f"{name}(optim={asked!r})"
        instead(capabilities, by, use=f"{PLAIN_ADAMW} is used", reason=reason)
        arguments.optim = PLAIN_ADAMW


def _lacking(module: str, attribute: str) -> str | None:
    try:
        getattr(importlib.import_module(module), attribute)
    except Exception as error:  # noqa: BLE001 - what it raises is the answer
        return f"{module}.{attribute} cannot be had ({type(error).__name__}: {error})"
    return None


def _backend(arguments: Any, capabilities: Capabilities) -> None:
    """`ddp_backend`: the device's own; none at all for a single process that asked for another."""
    asked = getattr(arguments, "ddp_backend", None)
    if not asked or not capabilities.of(Feature.COLLECTIVE):
        return
    use = capabilities.settle(Feature.COLLECTIVE, asked, asked_by=f"ddp_backend: {asked}")
    if use == asked:
        return
    alone = os.environ.get("LOCAL_RANK", "-1") == "-1"
    arguments.ddp_backend = None if alone else use
