"""`torch.Generator("cuda")`, `torch.Stream("cuda")`, `torch.Event("cuda")`: types made in C++.

Their constructors cannot be patched, and every instance must go on to be an instance of the name:
so a subclass stands at the name, whose constructor returns the original type, and which takes the
original's instances for its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from accel.resolving import Capabilities
from accel.values import Patch
from accel_frameworks.torch.patches import patch
from accel_frameworks.torch.target import Target


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """The three types, and `torch.random.fork_rng`, whose default is CUDA."""
    for name in ("Generator", "Stream", "Event"):
        yield patch(f"torch:{name}", redirecting(target))
    yield patch("torch.random:fork_rng", lambda original: _fork_rng(original, target))


def redirecting(target: Target) -> Callable[[Any], Any]:
    """A `replace` for a class: given CUDA's names, it makes the original with the device's."""

    def replace(original: Any) -> Any:
        class Meta(type(original)):  # type: ignore[misc]
            def __instancecheck__(cls, instance: Any) -> bool:
                return isinstance(instance, original)

            def __subclasscheck__(cls, subclass: type) -> bool:
                return issubclass(subclass, original)

        def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
            args = target.swap(args, kwargs)
            return original(*args, **kwargs)

        attributes = {"__new__": new, "__doc__": original.__doc__, "__module__": "torch"}
        return Meta(original.__name__, (original,), attributes)

    return replace


def _fork_rng(original: Callable[..., Any], target: Target) -> Callable[..., Any]:
    @contextlib.contextmanager
    def fork_rng(
        devices: Any = None,
        enabled: bool = True,
        _caller: str = "fork_rng",
        _devices_kw: str = "devices",
        device_type: Any = "cuda",
    ) -> Iterator[None]:
        kind = target.kind_of(device_type)
        if kind == "cpu":  # forked in any case
            devices, kind = [], device_type
        elif devices is not None:
            devices = [target.index_of(device) for device in devices]
        with original(devices, enabled, _caller, _devices_kw, kind):
            yield

    return fork_rng
