"""Mixed precision: autocast, GradScaler, custom_fwd and custom_bwd, and the state of autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from accel.resolving import Capabilities
from accel.values import Feature, Patch
from accel_frameworks.torch.patches import instead, patch
from accel_frameworks.torch.target import Target, names_cuda

STATE = ("is_autocast_enabled", "get_autocast_dtype", "set_autocast_dtype", "set_autocast_enabled")
OLD_STATE = {
    "get_autocast_gpu_dtype": "get_autocast_dtype",
    "set_autocast_gpu_dtype": "set_autocast_dtype",
}
"""CUDA's own, and the function that does it for any device."""


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """Everything that takes a device type, and everything that means CUDA by taking none."""
    settle = _Settling(capabilities)
    yield patch(
        "torch.amp.autocast_mode:autocast.__init__",
        lambda original: _autocast(original, target, settle),
    )
    yield patch(
        "torch.amp.grad_scaler:GradScaler.__init__", lambda original: _scaler(original, target)
    )
    for name in ("custom_fwd", "custom_bwd"):
        custom = functools.partial(_custom, target)
        yield patch(f"torch.amp.autocast_mode:{name}", custom)
        yield patch(f"torch.cuda.amp.autocast_mode:{name}", functools.partial(_old, target, name))
    yield patch("torch.amp.autocast_mode:is_autocast_available", functools.partial(_typed, target))
    for name in STATE:
        yield patch(f"torch:{name}", functools.partial(_state, target, name))
    for name, general in OLD_STATE.items():
        yield patch(f"torch:{name}", functools.partial(_old_state, target, general))
    yield patch("torch.cuda.amp.common:amp_definitely_not_available", instead(_no))


class _Settling:
    """The dtype of an autocast, as the device can have it; asked once for each dtype."""

    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities
        self._known: dict[Any, Any] = {}

    def __call__(self, dtype: Any) -> Any:
        """What is to be used for `dtype`; CapabilityUnavailable under `strict`."""
        if dtype not in self._known:
            self._known[dtype] = self._settled(dtype)
        return self._known[dtype]

    def _settled(self, dtype: Any) -> Any:
        import torch

        name = str(dtype).removeprefix("torch.")
        known = {decision.name for decision in self._capabilities.of(Feature.DTYPE)}
        if name not in known:
            return dtype
        asked_by = f'torch.autocast("cuda", dtype={dtype})'
        use = self._capabilities.settle(Feature.DTYPE, name, asked_by=asked_by)
        return getattr(torch, use)


def _autocast(
    original: Callable[..., None], target: Target, settle: Callable[[Any], Any]
) -> Callable[..., None]:
    import torch

    half = torch.float16  # CUDA's own default
    full = torch.float32

    @functools.wraps(original)
    def init(
        self: Any,
        device_type: Any,
        dtype: Any = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if names_cuda(device_type):
            device_type = target.kind
            if enabled:
                dtype = settle(half if dtype is None else dtype)
                enabled = dtype is not full
        original(self, device_type, dtype, enabled, cache_enabled)

    return init


def _scaler(original: Callable[..., None], target: Target) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Any, device: Any = "cuda", *args: Any, **kwargs: Any) -> None:
        original(self, target.kind_of(device), *args, **kwargs)

    return init


def _custom(target: Target, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def custom(*args: Any, **kwargs: Any) -> Any:
        if "device_type" in kwargs:
            kwargs["device_type"] = target.kind_of(kwargs["device_type"])
        return original(*args, **kwargs)

    return custom


def _old(target: Target, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def custom(*args: Any, **kwargs: Any) -> Any:
        import torch

        return getattr(torch.amp, name)(*args, device_type=target.kind, **kwargs)

    return custom


def _typed(target: Target, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(device_type: Any, *args: Any, **kwargs: Any) -> Any:
        return original(target.kind_of(device_type), *args, **kwargs)

    return call


def _state(target: Target, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    bare = {"is_autocast_enabled": 0, "set_autocast_enabled": 1}.get(name, -1)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "device_type" in kwargs:
            kwargs["device_type"] = target.kind_of(kwargs["device_type"])
        elif len(args) + len(kwargs) == bare:
            args = (target.kind, *args)
        elif args:
            args = (target.kind_of(args[0]), *args[1:])
        return original(*args, **kwargs)

    return call


def _old_state(target: Target, general: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any) -> Any:
        import torch

        return getattr(torch, general)(target.kind, *args)

    return call


def _no() -> bool:
    return False
