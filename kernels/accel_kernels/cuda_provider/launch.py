"""Loads machine code into the GPU's context and launches kernels on torch's current stream.

The driver is called through ctypes; torch has made the context by the time there is a tensor to
work on. Source of the calls: "CUDA Driver API" in NVIDIA's documentation.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import threading
from collections.abc import Sequence
from typing import TypeAlias

import torch

from accel.errors import AccelError
from accel_kernels.cuda_provider.compiling import Program, binary

DEFAULT_SHARED = 48 * 1024
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_CLUSTER_DIMENSION = 4  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


class LaunchError(AccelError):
    """The driver refused to load or launch a kernel."""


class _Attribute(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_int),
        ("pad", ctypes.c_char * 4),
        ("value", ctypes.c_int * 16),
    )


class _Config(ctypes.Structure):
    _fields_ = (
        *((f"grid_{axis}", ctypes.c_uint) for axis in "xyz"),
        *((f"block_{axis}", ctypes.c_uint) for axis in "xyz"),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint),
    )


@functools.lru_cache(maxsize=1)
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")


def _check(status: int, doing: str) -> None:
    if not status:
        return
    text = ctypes.c_char_p()
    _driver().cuGetErrorString(status, ctypes.byref(text))
    message = text.value.decode() if text.value else "unknown"
    raise LaunchError(
        f"{doing} must succeed", found=f"CUDA error {status}: {message}", remedy="nvidia-smi"
    )


_entered = threading.local()


def enter(device: int) -> None:
    """Make the context that torch uses on GPU number `device` this thread's.

    The threads that run backward are started by autograd, and have none as far as the driver is
    concerned until torch happens to call the runtime there. Raises LaunchError.
    """
    if getattr(_entered, "device", None) == device:
        return
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    _check(_driver().cuDeviceGet(ctypes.byref(handle), device), "finding the GPU")
    _check(_driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), handle), "keeping its context")
    _check(_driver().cuCtxSetCurrent(context), "entering its context")
    _entered.device = device


def driver_call(device: int, name: str, *arguments: object) -> None:
    """Call a function of the driver for a GPU. Raises LaunchError with the driver's message."""
    enter(device)
    _check(getattr(_driver(), name)(*arguments), name)


class Structure:
    """A kernel's argument that is passed by value, as its bytes; the driver copies them."""

    def __init__(self, content: bytes) -> None:
        self.content = ctypes.create_string_buffer(content, len(content))


Argument: TypeAlias = torch.Tensor | Structure | int | None
"""A tensor's address, a structure, a number of 32 bits, or an address that is null."""


@dataclasses.dataclass(frozen=True)
class Function:
    """A kernel in one GPU's context. `early` lets it start while the kernel before it ends."""

    handle: ctypes.c_void_p
    name: str
    device: int
    early: bool

    def __call__(
        self,
        grid: tuple[int, int, int],
        threads: int,
        shared_bytes: int,
        arguments: Sequence[Argument],
    ) -> None:
        """Launch on the current stream of the kernel's GPU. Raises LaunchError."""
        enter(self.device)
        values = [_argument(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        stream = ctypes.c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
        if not self.early:
            status = _driver().cuLaunchKernel(
                self.handle, *grid, threads, 1, 1, shared_bytes, stream, pointers, None
            )
        else:
            attribute = _Attribute(id=_SERIALIZATION)
            attribute.value[0] = 1
            config = _Config(
                *grid, threads, 1, 1, shared_bytes, stream, ctypes.pointer(attribute), 1
            )
            status = _driver().cuLaunchKernelEx(ctypes.byref(config), self.handle, pointers, None)
        _check(status, f"launching {self.name}")


def clusters_at_once(kernel: Function, size: int, threads: int, shared_bytes: int) -> int:
    """How many clusters of `size` blocks (along y) the GPU can run at the same time.

    Fewer than its multiprocessors would do: a cluster lies within one of the GPU's parts.
    """
    attribute = _Attribute(id=_CLUSTER_DIMENSION)
    attribute.value[0], attribute.value[1], attribute.value[2] = 1, size, 1
    config = _Config(1, size, 1, threads, 1, 1, shared_bytes, None, ctypes.pointer(attribute), 1)
    count = ctypes.c_int()
    driver_call(
        kernel.device, "cuOccupancyMaxActiveClusters", ctypes.byref(count), kernel.handle,
        ctypes.byref(config),
    )  # fmt: skip
    return count.value


@dataclasses.dataclass(frozen=True)
class Launch:
    """What a product of one size needs besides its tensors; `sizes` are the kernel's numbers."""

    kernel: Function
    blocks: int
    shared_bytes: int
    sizes: tuple[int, ...]


def _argument(value: Argument) -> ctypes.c_void_p | ctypes.c_int | ctypes.Array[ctypes.c_char]:
    if isinstance(value, int):
        return ctypes.c_int(value)
    if isinstance(value, Structure):
        return value.content
    return ctypes.c_void_p(None if value is None else value.data_ptr())


@functools.lru_cache(maxsize=1024)
def function(
    program: Program, name: str, device: int, shared_bytes: int = 0, early: bool = False
) -> Function:
    """Kernel `name` of `program`, compiled if need be and loaded on GPU number `device`.

    Loading cannot be captured in a CUDA graph: call once before capturing. Raises LaunchError,
    CompileError or CapabilityUnavailable.
    """
    code = binary(program, torch.cuda.get_device_capability(device))
    module, handle = ctypes.c_void_p(), ctypes.c_void_p()
    with torch.cuda.device(device):
        torch.cuda.current_stream()
        enter(device)
        _check(_driver().cuModuleLoadData(ctypes.byref(module), code), f"loading {program.file}")
        _check(
            _driver().cuModuleGetFunction(ctypes.byref(handle), module, name.encode()),
            f"finding {name} in {program.file}",
        )
        if shared_bytes > DEFAULT_SHARED:
            _check(
                _driver().cuFuncSetAttribute(handle, _MAX_DYNAMIC_SHARED, shared_bytes),
                f"giving {name} {shared_bytes} bytes of shared memory",
            )
    return Function(handle, name, device, early)
