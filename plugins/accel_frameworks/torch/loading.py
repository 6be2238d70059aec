"""What is loaded and kept: checkpoints saved on CUDA, `map_location`, storages, pinned batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from accel.resolving import Capabilities
from accel.values import Patch
from accel_frameworks.torch import asking
from accel_frameworks.torch.patches import REASON, patch
from accel_frameworks.torch.target import Target, names_cuda

BEFORE_CUDA = range(9, 0, -1)
"""Priorities before torch's own packages: CPU has 10, CUDA 20. No two may be the same."""


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """torch.serialization by its own registry; the rest by name."""
    yield Patch(
        target="torch.serialization",
        reason=REASON,
        seam=lambda module: _register(module, target),
    )
    yield patch("torch.jit:load", lambda original: _jit_load(original, target))
    yield patch("torch:UntypedStorage.__new__", lambda original: _storage(original, target))
    yield patch("torch.storage:_StorageBase.cuda", lambda original: _storage_cuda(target))
    yield patch("torch.storage:TypedStorage.cuda", lambda original: _typed_cuda(target))
    for kind in ("UntypedStorage", "TypedStorage"):
        yield patch(f"torch.storage:{kind}.is_cuda", lambda original: _is_cuda(original, target))
    yield patch(
        "torch.utils.data.dataloader:DataLoader.__init__",
        lambda original: _loader(original, target),
    )
    yield patch(
        "transformers.integrations.accelerate:check_and_set_device_map",
        lambda original: _device_map(original, target),
    )
    if not target.indexed:
        for name in ("_StorageBase", "TypedStorage"):
            yield patch(f"torch.storage:{name}.pin_memory", lambda original: _itself)


def _register(module: Any, target: Target) -> Callable[[], None]:
    def nobodys(storage: Any) -> None:
        """What is on the device is tagged by the device's own package."""

    def restore(storage: Any, location: Any) -> Any:
        if not names_cuda(location):
            return None
        return module.default_restore_location(storage, str(target.of(location)))

    taken = {one[0] for one in module._package_registry}
    free = next(priority for priority in BEFORE_CUDA if priority not in taken)
    module.register_package(free, nobodys, restore)
    (entry,) = (one for one in module._package_registry if one[2] is restore)

    def undo() -> None:
        module._package_registry.remove(entry)

    return undo


def _device_map(original: Callable[..., Any], target: Target) -> Callable[..., Any]:
    """transformers' `device_map`: `cuda`, `{"": 0}`. Numbers are CUDA's where torch has none."""

    def there(value: Any) -> Any:
        if isinstance(value, str):
            return str(target.of(value))
        return target.named(value) if target.indexed else target.of(value)

    @functools.wraps(original)
    def check_and_set_device_map(device_map: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(device_map, dict):
            device_map = {name: there(value) for name, value in device_map.items()}
        elif device_map is not None:
            device_map = there(device_map)
        return original(device_map, *args, **kwargs)

    return check_and_set_device_map


def _jit_load(original: Callable[..., Any], target: Target) -> Callable[..., Any]:
    @functools.wraps(original)
    def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        # a script saved on CUDA goes where it is, so no location is asked to be CUDA's either
        return original(f, target.of(map_location or "cuda"), *args, **kwargs)

    return load


def _storage(original: Callable[..., Any], target: Target) -> Any:
    @functools.wraps(original)
    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if "device" in kwargs:
            kwargs["device"] = target.named(kwargs["device"])
        return original(cls, *args, **kwargs)

    return staticmethod(new)


def _storage_cuda(target: Target) -> Callable[..., Any]:
    def cuda(self: Any, device: Any = None, non_blocking: bool = False) -> Any:
        there = target.of("cuda" if device is None else device)
        if self.device.type == there.type and there.index in (None, self.device.index):
            return self
        return self.to(device=there, non_blocking=non_blocking)

    return cuda


def _typed_cuda(target: Target) -> Callable[..., Any]:
    def cuda(self: Any, device: Any = None, non_blocking: bool = False) -> Any:
        return self._new_wrapped_storage(self._untyped_storage.cuda(device, non_blocking))

    return cuda


def _is_cuda(original: Any, target: Target) -> property:
    def is_cuda(self: Any) -> bool:
        if original.__get__(self):
            return True
        return self.device.type == target.kind and asking.answer_is_cuda(target.kind)

    return property(is_cuda)


def _itself(self: Any, device: Any = None) -> Any:
    return self


def _loader(original: Callable[..., None], target: Target) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("pin_memory") and not target.indexed:
            kwargs["pin_memory"] = False
        if kwargs.get("pin_memory_device"):
            kwargs["pin_memory_device"] = str(target.of(kwargs["pin_memory_device"]))
        if not target.indexed:
            kwargs.pop("pin_memory_device", None)
        original(self, *args, **kwargs)

    return init
