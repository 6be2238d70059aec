"""What is asked of devices by number: which is meant, which is current, and what they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from accel.values import Device
from accel_simulator.cards import Card, processors


def indexer(kind: str, extension: Any) -> Callable[[Any], int]:
    """What finds the number in anything torch takes for a device; None is the current one."""

    def index_of(device: Any = None) -> int:
        import torch

        if device is None:
            return int(extension.current(kind))
        if isinstance(device, int):
            return device if device >= 0 else int(extension.current(kind))
        meant = torch.device(device)
        if meant.type != kind:
            raise ValueError(f"Expected a {kind} device, but got: {meant}")
        return int(extension.current(kind)) if meant.index is None else int(meant.index)

    return index_of


def guards(kind: str, extension: Any, index_of: Callable[[Any], int]) -> dict[str, Any]:
    """`device`, `device_of`, `set_device` and their like, as torch.cuda has them."""

    class device:  # noqa: N801 - torch's own name
        """Makes a device the current one for a while; a negative number changes nothing."""

        def __init__(self, device: Any) -> None:
            unset = device is None or (isinstance(device, int) and device < 0)
            self.idx = -1 if unset else index_of(device)
            self.prev_idx = -1

        def __enter__(self) -> None:
            self.prev_idx = _exchange_device(self.idx)

        def __exit__(self, *error: object) -> None:
            _exchange_device(self.prev_idx)

    class device_of(device):  # noqa: N801 - torch's own name
        """The device of a tensor or storage, where it is of this kind."""

        def __init__(self, obj: Any) -> None:
            super().__init__(obj.get_device() if obj.device.type == kind else -1)

    def _exchange_device(index: int) -> int:
        if index < 0:
            return -1
        before = int(extension.current(kind))
        extension.set_current(kind, index)
        return before

    def _maybe_exchange_device(index: int) -> int:
        return _exchange_device(index)  # a function of its own: Dynamo tells the two by identity

    def set_device(device: Any) -> None:
        if not (isinstance(device, int) and device < 0):
            extension.set_current(kind, index_of(device))

    def current_device() -> int:
        return int(extension.current(kind))

    def device_count() -> int:
        return int(extension.count(kind))

    return {
        "device": device,
        "device_of": device_of,
        "_exchange_device": _exchange_device,
        "_maybe_exchange_device": _maybe_exchange_device,
        "set_device": set_device,
        "current_device": current_device,
        "device_count": device_count,
    }


class Properties:
    """A device's properties as torch has them: those that are known, and no others."""

    def __init__(self, **known: Any) -> None:
        self.__dict__.update(known)

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({listed})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Properties) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def properties(card: Card, index: int) -> Properties:
    """What torch would say of a device of the card; AssertionError for a number that is none."""
    if not 0 <= index < len(card.devices):
        raise AssertionError("Invalid device id")
    device = card.devices[index]
    known: dict[str, Any] = {
        "name": device.name,
        "total_memory": device.memory or 2**34,
        "is_integrated": int(device.memory_model == "unified"),
        "multi_processor_count": processors(device),
        "gcnArchName": device.arch if device.arch.startswith("gfx") else None,
    }
    capability = capability_of(device)
    if capability is not None:
        known["major"], known["minor"] = capability
    if card.kind == "cuda":
        known["warp_size"] = 64 if device.arch.startswith("gfx9") else 32
    if card.kind == "xpu":
        known["has_fp64"] = "float64" in card.dtypes
        known["has_fp16"] = "float16" in card.dtypes
    return Properties(**{name: value for name, value in known.items() if value is not None})


def capability_of(device: Device) -> tuple[int, int] | None:
    """Major and minor number that torch.cuda gives of an architecture: (9, 0) of sm_90, gfx90a."""
    nvidia = re.fullmatch(r"sm_(\d+)(\d)[af]?", device.arch)
    if nvidia:
        return int(nvidia[1]), int(nvidia[2])
    amd = re.fullmatch(r"gfx(\d+)([0-9a-f])[0-9a-f]", device.arch)
    return (int(amd[1]), int(amd[2], 16)) if amd else None
