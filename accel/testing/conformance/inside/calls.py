"""Inside, for runtime.*: torch's calls on a device, wherever torch has them for it.

A device's own torch module comes first. What that lacks, `torch.accelerator` does for whatever
accelerator the process has, with `torch.Stream` and `torch.Event`: a backend that registers no
more than torch asks for has its streams, events and memory there, and is held to them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

NAMED_OTHERWISE = {
    "current_device": "current_device_index",
    "mem_get_info": "get_memory_info",
    "set_device": "set_device_index",
}
NOT_THERE = ("is not a DeviceAllocator",)
"""What torch says, beside NotImplementedError, where a backend has not registered the thing."""


class Absent(Exception):
    """Neither has the call."""


class Calls:
    """The calls of a device by the names that all torch modules of devices use.

    `general` are those that came from torch.accelerator. AttributeError where nobody has one.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._device = torch.device(device)
        self._own = torch.get_device_module(self._device)
        self.general: set[str] = set()
        self.__name__ = self._own.__name__

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._own, name, None)
        if found is None:
            found = self._general(name)
            self.general.add(name)
        return found

    def _general(self, name: str) -> Any:
        import torch

        current = torch.accelerator.current_accelerator()
        if current is None or current.type != self._device.type:
            raise AttributeError(name)
        if name == "stream":
            return lambda stream: stream  # a torch.Stream is its own context manager
        if name in ("Stream", "Event"):
            return _Made(getattr(torch, name), self._device)
        there = NAMED_OTHERWISE.get(name, name)
        return _said_plainly(getattr(torch.accelerator, there), f"torch.accelerator.{there}")


class _Made:
    """A class of torch's for one device, so that it is called as a device's own is."""

    def __init__(self, kind: Any, device: Any) -> None:
        self._kind = kind
        self._device = device

    def __call__(self, **options: Any) -> Any:
        return self._kind(self._device, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kind, name)


def _said_plainly(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`function`, which raises Absent where the backend has nothing behind it."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except NotImplementedError as error:
            raise Absent(f"{name}: {error}") from None
        except RuntimeError as error:
            if not any(text in str(error) for text in NOT_THERE):
                raise
            raise Absent(f"{name}: {error}") from None

    return call
