"""accelerate: a device type it has no word for, the ranks, and the processors near a card."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable

from accel.errors import AccelError
from accel.hookspecs import hookimpl
from accel.values import Device, Feature, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.machine import Machine
    from accel.resolving import Capabilities

TYPES = {"cuda": "GPU"}
"""accelerate's word for a device type in its DistributedType, where it is not torch's."""
KNOWN = frozenset(
    ("cpu", "cuda", "hpu", "mlu", "mps", "musa", "neuron", "npu", "sdaa", "xla", "xpu")
)
"""The device types that accelerate 1.15 has a word for."""
DEVICE = "ACCELERATE_TORCH_DEVICE"


@hookimpl
def accel_patches(device: Device, capabilities: Capabilities, machine: Machine) -> Iterable[Patch]:
    """By the type of the device; the processors of a card only where there is a card."""
    patches = []
    if device.kind not in ("cpu", "cuda"):
        patches.append(_distributed(device, capabilities))
    if device.kind != "cpu":
        patches.append(_near(device, machine))
    if device.kind not in KNOWN:
        patches += _unknown(device)
    return patches


def _unknown(device: Device) -> Iterable[Patch]:
    """For a torch device type that the installed accelerate has no word for."""
    about: dict[str, Any] = {
        "distribution": "accelerate",
        "versions": ">=1.0",
        "upstream": "https://github.com/huggingface/accelerate/blob/v1.15.0/src/accelerate/state.py"
        "#L718",
        "until": "accelerate asks torch.accelerator for the device",
    }
    yield Patch(
        target="accelerate.state",
        reason="a device type that accelerate has no word for is passed over in silence: Trainer "
        "and Accelerator train on the CPU",
        seam=lambda module: _named(module, device),
        symptom="Trainer trains on the CPU, though torch.accelerator is there",
        **about,
    )
    yield Patch(
        target="accelerate.state:PartialState._prepare_backend",
        reason="ranks on a device type that accelerate has no word for are no ranks: each trains "
        "alone, on everything, or (accelerate 1.11) they train on the CPU",
        replace=lambda original: _refusing_ranks(original, device),
        parameters=("cpu", "backend"),
        symptom="torchrun's ranks have num_processes 1 and the same losses as one process",
        **about,
    )


def _kind(device: Device) -> str:
    return f"MULTI_{TYPES.get(device.kind, device.kind.upper())}"


def _named(module: Any, device: Device) -> Callable[[], None]:
    """Name the device by the variable that accelerate and transformers read. Returns the undo."""
    from accel.patching.variables import Variables

    if hasattr(module.DistributedType, _kind(device)) or DEVICE in os.environ:
        return lambda: None
    variables = Variables()
    variables.set(DEVICE, device.torch_name)
    return variables.take_back


def _refusing_ranks(original: Callable[..., Any], device: Device) -> Callable[..., Any]:
    @functools.wraps(original)
    def prepare(self: Any, cpu: bool = False, *args: Any, **kwargs: Any) -> Any:
        backend, kind = original(self, cpu, *args, **kwargs)
        if hasattr(type(kind), _kind(device)):  # a later accelerate knows it
            return backend, kind
        if cpu:
            self.device = None  # the variable names the device even where the CPU was asked for
        elif int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise AccelError(
                f"accelerate starts no ranks on {device.kind}: each would train alone, or on the "
                "CPU",
                found=f"{os.environ['WORLD_SIZE']} ranks on {device.name}; accelerate's kinds of "
                f"distributed training have no {_kind(device)}",
                remedy="start one process, or train on the CPU: TrainingArguments(use_cpu=True)",
            )
        return backend, kind

    return prepare


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
        own = getattr(type(kind), _kind(device), None)
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
