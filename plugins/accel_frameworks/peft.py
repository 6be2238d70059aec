"""peft: half of a quantisation toolkit must not stop LoRA on plain layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from accel.hookspecs import hookimpl
from accel.values import Level, Note, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities


@hookimpl
def accel_patches(capabilities: Capabilities) -> Iterable[Patch]:
    """On every device: what decides is what is installed."""
    return [
        Patch(
            target="peft.import_utils:is_gptqmodel_available",
            reason="gptqmodel without a fitting optimum makes this question raise ImportError, "
            "and it is asked for every layer of every LoRA",
            replace=lambda original: _answered(original, capabilities),
            distribution="peft",
            versions=">=0.15,<0.22",
            upstream="https://github.com/huggingface/peft/blob/v0.18.1/src/peft/import_utils.py#L53",
            until="peft asks only for layers that are quantised",
        )
    ]


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
