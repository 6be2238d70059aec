"""CUDA's attention kernels, chosen by name: a device that has none of them has a way left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from accel.resolving import Capabilities
from accel.values import Patch
from accel_frameworks.torch.patches import patch
from accel_frameworks.torch.target import Target


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """`sdpa_kernel` and the older `torch.backends.cuda.sdp_kernel`."""
    yield patch("torch.nn.attention:sdpa_kernel", _with_math)
    yield patch("torch.backends.cuda:sdp_kernel", _math_enabled)


def _with_math(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def sdpa_kernel(backends: Any, set_priority: bool = False) -> Any:
        from torch.nn.attention import SDPBackend

        given = [backends] if isinstance(backends, SDPBackend) else list(backends)
        if SDPBackend.MATH not in given:
            given.append(SDPBackend.MATH)
        return original(given, set_priority)

    return sdpa_kernel


def _math_enabled(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def sdp_kernel(
        enable_flash: bool = True, enable_math: bool = True, *args: Any, **kwargs: Any
    ) -> Any:
        return original(enable_flash, True, *args, **kwargs)

    return sdp_kernel
