"""Training precision as flags (`bf16`, `fp16`), answered by what the device has."""

from __future__ import annotations

import functools
import os
import sys

from accel.values import Feature, Level, Note

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

FLAG_OF = {"bfloat16": "bf16", "float16": "fp16"}
MIXED_PRECISION = "ACCELERATE_MIXED_PRECISION"


def settle_flags(arguments: Any, capabilities: Capabilities, asked_by: str) -> None:
    """Set `bf16`, `fp16` and their `_full_eval` kin on `arguments` to what the device can do.

    A flag that can be had stays; another becomes the best there is, with a line in the report, or
    is CapabilityUnavailable under `strict`. Both flags at once are left for their owner to refuse.
    """
    if not capabilities.of(Feature.DTYPE):
        return
    _settle(arguments, "", capabilities, asked_by)
    _settle(arguments, "_full_eval", capabilities, asked_by)
    # DeepSpeed sets its ranks up itself, and is not asked to where use_cpu is set
    own_ranks = bool(getattr(arguments, "deepspeed", None))
    if capabilities.device.kind == "cpu" and not arguments.use_cpu and not own_ranks:
        # the check for bf16 is about a GPU unless told otherwise, and so is the choice of device
        half = arguments.bf16 or arguments.bf16_full_eval
        arguments.use_cpu = bool(half) or _accelerator_in_sight()


def _settle(arguments: Any, suffix: str, capabilities: Capabilities, asked_by: str) -> None:
    asked = [
        dtype for dtype, flag in FLAG_OF.items() if getattr(arguments, f"{flag}{suffix}", False)
    ]
    if len(asked) > 1:
        return
    if asked:
        by = f"{asked_by}({FLAG_OF[asked[0]]}{suffix}=True)"
        use = capabilities.settle(Feature.DTYPE, asked[0], asked_by=by)
        if use == asked[0]:
            return
    else:
        # nothing was asked here: only what the user named in auto() counts, and only for training
        own = capabilities.wanted.get(Feature.DTYPE)
        if own not in FLAG_OF or suffix:
            return
        use = own
        capabilities.note(
            Note(
                level=Level.INFO,
                subject=asked_by,
                message=f"{FLAG_OF[own]}=True, because {own} was asked for in auto()",
                origin="accel_frameworks",
            )
        )
    for dtype, flag in FLAG_OF.items():
        setattr(arguments, f"{flag}{suffix}", dtype == use)


def force(arguments: Any, dtype: str) -> None:
    """Mixed precision in `dtype` on training arguments that have already been checked."""
    for name, flag in FLAG_OF.items():
        setattr(arguments, flag, name == dtype)
    mode = FLAG_OF.get(dtype, "no")
    if hasattr(arguments, "mixed_precision"):
        arguments.mixed_precision = mode
    else:
        os.environ[MIXED_PRECISION] = mode


def _accelerator_in_sight() -> bool:
    """Whether torch would use something other than the CPU that was chosen."""
    torch = sys.modules.get("torch")
    accelerator = getattr(torch, "accelerator", None)
    return bool(accelerator is not None and accelerator.is_available())


def loads_in(original: Any, capabilities: Capabilities) -> Any:
    """transformers' choice of the dtype to load a model in, with one the device has.

    The dtype may come from the checkpoint ("auto") or from the caller: either is settled like any
    other request, with a line in the report, or CapabilityUnavailable under `strict`.
    """

    @functools.wraps(original)
    def choose(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        name = str(found[1]).removeprefix("torch.")
        declared = {decision.name for decision in capabilities.of(Feature.DTYPE)}
        if name not in FLAG_OF or name not in declared:
            return found
        use = capabilities.settle(Feature.DTYPE, name, asked_by=f"a model in {name}")
        if use == name:
            return found
        import inspect

        import torch

        bound = inspect.signature(original).bind(*args, **kwargs)
        asked = "dtype" if "dtype" in bound.arguments else "torch_dtype"
        bound.arguments[asked] = getattr(torch, use)
        again = original(*bound.args, **bound.kwargs)
        # what older versions return besides is the default dtype as it was before the first call
        return (*again[:2], *found[2:])

    return choose
