"""`torch.cuda.comm` and `torch.cuda.nccl`: copies between the devices of one process.

torch has these in C++ for CUDA alone; a copy from device to device does the same anywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from accel.resolving import Capabilities
from accel.values import Patch
from accel_frameworks.torch import asking
from accel_frameworks.torch.patches import instead, patch
from accel_frameworks.torch.refusing import refusal
from accel_frameworks.torch.target import Target

NCCL_VERSION = (2, 10, 3)
"""The first with bfloat16, which is what scripts ask it for; no statement about the backend."""
ACROSS = ("all_reduce", "reduce", "broadcast", "all_gather", "reduce_scatter", "unique_id")
WITH_RANKS = "torch.distributed, one process for each device"


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """`comm` for every device; `nccl.version()`, and an error for the rest of `nccl`."""
    copies = _Copies(target)
    for name in ("broadcast", "broadcast_coalesced", "reduce_add", "scatter", "gather"):
        yield patch(f"torch.nn.parallel.comm:{name}", instead(getattr(copies, name)))
    if not target.indexed:
        yield patch("torch.nn.parallel.data_parallel:data_parallel", instead(_on_one))
    yield patch("torch.cuda.nccl:version", functools.partial(_version, target))
    for name in ACROSS:
        yield patch(
            f"torch.cuda.nccl:{name}", instead(_refusing(f"torch.cuda.nccl.{name}", target))
        )


class _Copies:
    """The functions of `torch.nn.parallel.comm`, over `target`'s devices."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def broadcast(self, tensor: Any, devices: Any = None, *, out: Any = None) -> tuple[Any, ...]:
        """`tensor` on each of `devices`, or copied into each of `out`."""
        tensor = _as_real(tensor)
        if out is not None:
            return tuple(one.copy_(tensor) for one in _either(devices, out))
        first, *others = [self.target.of(one) for one in _either(devices, out)]
        return tensor.to(first), *(tensor.to(one, copy=True) for one in others)

    def broadcast_coalesced(
        self, tensors: Sequence[Any], devices: Any, buffer_size: int = 10485760
    ) -> tuple[list[Any], ...]:
        """For each device the list of `tensors` there. `buffer_size`, in bytes, has no effect."""
        devices = list(devices)
        copies = [self.broadcast(tensor, devices) for tensor in tensors]
        return tuple([copy[number] for copy in copies] for number in range(len(devices)))

    def reduce_add(self, inputs: Sequence[Any], destination: Any = None) -> Any:
        """The sum of `inputs`, on `destination`, else on the current device."""
        there = self._at(destination)
        first, *others = [one.to(there) for one in inputs]
        return sum(others, start=first.clone())

    def scatter(
        self,
        tensor: Any,
        devices: Any = None,
        chunk_sizes: Any = None,
        dim: int = 0,
        streams: Any = None,
        *,
        out: Any = None,
    ) -> tuple[Any, ...]:
        """Parts of `tensor` along `dim` on `devices`, or copied into `out`."""
        import torch

        tensor = _as_real(tensor)
        places = list(_either(devices, out))
        if out is not None:
            parts = tensor.split([one.size(dim) for one in places], dim)
            return tuple(one.copy_(part) for one, part in zip(places, parts, strict=True))
        if chunk_sizes is None:
            parts = torch.chunk(tensor, len(places), dim)
        else:
            parts = tensor.split(list(chunk_sizes), dim)
        return tuple(part.to(self.target.of(one)) for one, part in zip(places, parts, strict=False))

    def gather(
        self, tensors: Sequence[Any], dim: int = 0, destination: Any = None, *, out: Any = None
    ) -> Any:
        """`tensors` side by side along `dim` on `destination` (-1 is the host), or in `out`."""
        import torch

        if out is not None:
            _either(destination, out)
        there = self._at(destination) if out is None else out.device
        whole = torch.cat([_as_real(one).to(there) for one in tensors], dim)
        return whole if out is None else out.copy_(whole)

    def _at(self, destination: Any) -> Any:
        if destination == -1:
            return "cpu"
        return self.target.of("cuda" if destination is None else destination)


def _either(devices: Any, out: Any) -> Any:
    if (devices is None) == (out is None):
        raise RuntimeError(
            "Exactly one of the device(s) and 'out' must be specified, "
            f"but got {devices!r} and out={out!r}"
        )
    return devices if out is None else out


def _as_real(tensor: Any) -> Any:
    """As torch's own do: whoever calls them with complex numbers makes these complex again."""
    import torch

    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _on_one(
    module: Any,
    inputs: Any,
    device_ids: Any = None,
    output_device: Any = None,
    dim: int = 0,
    module_kwargs: Any = None,
) -> Any:
    """`data_parallel` where there is one device: the module itself."""
    if not isinstance(inputs, tuple):
        inputs = () if inputs is None else (inputs,)
    return module(*inputs, **(module_kwargs or {}))


def _version(target: Target, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def version() -> Any:
        if asking.knows_devices(asking.asker(), any_library=target.kind == "cpu"):
            return original()
        return NCCL_VERSION

    return version


def _refusing(name: str, target: Target) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise refusal(name, target, WITH_RANKS)

    return refuse
