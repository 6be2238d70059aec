"""torch: `is_bf16_supported()` says True where bfloat16 is only emulated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from accel.hookspecs import hookimpl
from accel.values import Device, Feature, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities


@hookimpl
def accel_patches(device: Device, capabilities: Capabilities) -> Iterable[Patch]:
    """Only where torch's device type is the one that the question is about."""
    if device.kind != "cuda" or not capabilities.of(Feature.DTYPE):
        return []
    return [
        Patch(
            target="torch.cuda:is_bf16_supported",
            reason="True on cards that only emulate bfloat16 (compute capability below 8.0), "
            "and always True on ROCm",
            replace=lambda original: _for_device(original, capabilities),
            distribution="torch",
            versions=">=2.5",
            upstream="https://github.com/pytorch/pytorch/pull/148322",
            until="torch's default answer leaves emulation out",
        )
    ]


def _for_device(original: Callable[..., bool], capabilities: Capabilities) -> Callable[..., bool]:
    @functools.wraps(original)
    def is_bf16_supported(*args: Any, **kwargs: Any) -> bool:
        return capabilities.supports(Feature.DTYPE, "bfloat16")

    return is_bf16_supported
