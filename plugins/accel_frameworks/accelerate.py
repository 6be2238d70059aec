"""accelerate: the kind of distributed training, and the processors that are near a card."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable

from accel.hookspecs import hookimpl
from accel.values import Device, Feature, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.machine import Machine
    from accel.resolving import Capabilities

TYPES = {"cuda": "GPU"}
"""accelerate's word for a device type in its DistributedType, where it is not torch's."""


@hookimpl
def accel_patches(device: Device, capabilities: Capabilities, machine: Machine) -> Iterable[Patch]:
    """By the type of the device; the processors of a card only where there is a card."""
    patches = []
    if device.kind not in ("cpu", "cuda"):
        patches.append(_distributed(device, capabilities))
    if device.kind != "cpu":
        patches.append(_near(device, machine))
    return patches


def _distributed(device: Device, capabilities: Capabilities) -> Patch:
    return Patch(
        target="accelerate.state:PartialState._prepare_backend",
        reason="a missing `elif` lets CUDA, which some vendors' torch also reports, overwrite the "
        "device's own kind of distributed training",
        replace=lambda original: _prepared(original, device, capabilities),
        distribution="accelerate",
        versions=">=1.0,<1.15",
        parameters=("cpu", "backend"),
        upstream="https://github.com/modelscope/ms-swift/issues/1020",
        until="accelerate before 1.15 is no longer used",
        symptom="ranks that train on cuda:0 or the CPU although accelerate chose cncl",
    )


def _prepared(
    original: Callable[..., Any], device: Device, capabilities: Capabilities
) -> Callable[..., Any]:
    @functools.wraps(original)
    def prepare(self: Any, cpu: bool = False, *args: Any, **kwargs: Any) -> Any:
        backend, kind = original(self, cpu, *args, **kwargs)
        name = f"MULTI_{TYPES.get(device.kind, device.kind.upper())}"
        own = getattr(type(kind), name, None)
        alone = int(os.environ.get("LOCAL_RANK", -1)) == -1
        if cpu or alone or own is None or kind is own or not str(kind.value).startswith("MULTI_"):
            return backend, kind
        return capabilities.settle(
            Feature.COLLECTIVE, str(backend), asked_by=f"PartialState(backend={backend!r})"
        ), own

    return prepare


def _near(device: Device, machine: Machine) -> Patch:
    return Patch(
        target="accelerate.utils.environment:override_numa_affinity",
        reason="the rank's number is taken for the card's number, which it is not where only some "
        "cards are visible: the rank is bound to the processors of another card",
        replace=lambda original: _bound(original, device, machine),
        distribution="accelerate",
        versions=">=0.28",
        parameters=("local_process_index",),
        upstream="https://github.com/allenai/open-instruct/pull/1781",
        until="accelerate asks for the card by its PCI address",
        symptom="ranks bound to the wrong NUMA node under CUDA_VISIBLE_DEVICES, half as fast",
    )


def _bound(original: Callable[..., None], device: Device, machine: Machine) -> Callable[..., None]:
    @functools.wraps(original)
    def override_numa_affinity(local_process_index: int, *args: Any, **kwargs: Any) -> None:
        original(physical_index(local_process_index, device, machine), *args, **kwargs)

    return override_numa_affinity


def physical_index(index: int, device: Device, machine: Machine) -> int:
    """The vendor's number of the card that torch calls `index`; `index` where it is not known."""
    from accel.pipeline import devices

    for one in devices(machine):
        if one.kind == device.kind and one.index == index:
            return int(one.attributes.get("physical_index", index))
    return index
