"""LLaMA-Factory's demands for autoawq and gptqmodel, which loading a checkpoint no longer needs."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import Any

from accel_kernels.integrations.layers import METHODS

_loading: contextvars.ContextVar[bool] = contextvars.ContextVar("accel_loading", default=False)
PACKAGES = ("autoawq", "gptqmodel")


def configured(original: Callable[..., None]) -> Callable[..., None]:
    """`configure_quantization`: what it demands for a checkpoint that accel serves is met."""

    @functools.wraps(original)
    def configure_quantization(config: Any, *args: Any, **kwargs: Any) -> None:
        stored = getattr(config, "quantization_config", None)
        method = stored.get("quant_method") if isinstance(stored, dict) else None
        token = _loading.set(str(getattr(method, "value", method)) in METHODS)
        try:
            original(config, *args, **kwargs)
        finally:
            _loading.reset(token)

    return configure_quantization


def version_checked(original: Callable[..., None]) -> Callable[..., None]:
    """`check_version`: silent on PACKAGES while a served checkpoint is configured, and only then.

    To make a GPTQ checkpoint (`export_quantization_bit`) gptqmodel is still needed.
    """

    @functools.wraps(original)
    def check_version(requirement: str, *args: Any, **kwargs: Any) -> None:
        if not (_loading.get() and requirement.startswith(PACKAGES)):
            original(requirement, *args, **kwargs)

    return check_version
