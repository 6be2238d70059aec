"""The dozen calls to NVML that detection makes, by ctypes, under the library's own names.

The official bindings (nvidia-ml-py) define every structure of NVML when they are imported, which
takes as long as the questions themselves. Signatures are those of `nvml.h`: each function returns
a status and writes what was asked where its last arguments point.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

NVML_CLOCK_SM = 1
_LIBRARY_NOT_FOUND, _FUNCTION_NOT_FOUND = 12, 13
_TEXT = 96
"""Bytes of the longest text that NVML gives: its buffers are of 80, 96 or, for names, 96."""


class NVMLError(Exception):
    """NVML's own status: `code`, and its text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class NVMLError_NotSupported(NVMLError):  # noqa: N801 - the name that the official bindings have
    """The device has no such thing."""


class NVMLError_NoPermission(NVMLError):  # noqa: N801
    """It is not told to this user, or not in this container."""


class NVMLError_NotFound(NVMLError):  # noqa: N801
    """There is none of that number."""


class NVMLError_FunctionNotFound(NVMLError):  # noqa: N801
    """The driver's library is older than the function."""


_KINDS = {3: NVMLError_NotSupported, 4: NVMLError_NoPermission, 6: NVMLError_NotFound}


class _PciInfo(ctypes.Structure):
    """`nvmlPciInfo_t` of version 3."""

    _fields_ = [
        ("busIdLegacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("pciDeviceId", ctypes.c_uint),
        ("pciSubSystemId", ctypes.c_uint),
        ("busId", ctypes.c_char * 32),
    ]


class _Memory(ctypes.Structure):
    """`nvmlMemory_t`: bytes."""

    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


def _places() -> list[str]:
    if sys.platform != "win32":
        return ["libnvidia-ml.so.1"]
    windows = os.environ.get("WINDIR", "C:/Windows")
    programs = os.environ.get("ProgramFiles", "C:/Program Files")  # noqa: SIM112 - Windows' spelling
    return [f"{windows}/System32/nvml.dll", f"{programs}/NVIDIA Corporation/NVSMI/nvml.dll"]


@functools.cache
def _library() -> ctypes.CDLL:
    for place in _places():
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    raise NVMLError(_LIBRARY_NOT_FOUND, "NVML Shared Library Not Found")


def _call(name: str, *arguments: Any) -> None:
    try:
        function = getattr(_library(), name)
    except AttributeError:
        raise NVMLError_FunctionNotFound(
            _FUNCTION_NOT_FOUND, f"Function Not Found: {name}"
        ) from None
    code = function(*arguments)
    if code:
        raise _KINDS.get(code, NVMLError)(code, _words(code))


def _words(code: int) -> str:
    try:
        words = _library().nvmlErrorString
    except AttributeError:
        return f"NVML Error with code {code}"
    words.restype = ctypes.c_char_p
    return (words(code) or b"").decode(errors="replace")


def _number(name: str, *arguments: Any) -> int:
    found = ctypes.c_uint()
    _call(name, *arguments, ctypes.byref(found))
    return found.value


def _text(name: str, *arguments: Any) -> str:
    found = ctypes.create_string_buffer(_TEXT)
    _call(name, *arguments, found, ctypes.c_uint(_TEXT))
    return found.value.decode(errors="replace")


def _handle(name: str, *arguments: Any) -> ctypes.c_void_p:
    found = ctypes.c_void_p()
    _call(name, *arguments, ctypes.byref(found))
    return found


# The library's functions, by its names ---------------------------------------------------------
# ruff: noqa: N802, D103


def nvmlInit() -> None:
    _call("nvmlInitWithFlags", 0)


def nvmlShutdown() -> None:
    _call("nvmlShutdown")


def nvmlSystemGetDriverVersion() -> str:
    return _text("nvmlSystemGetDriverVersion")


def nvmlSystemGetCudaDriverVersion_v2() -> int:
    return _number("nvmlSystemGetCudaDriverVersion_v2")


def nvmlDeviceGetCount() -> int:
    return _number("nvmlDeviceGetCount_v2")


def nvmlDeviceGetHandleByIndex(index: int) -> ctypes.c_void_p:
    return _handle("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index))


def nvmlDeviceGetName(device: Any) -> str:
    return _text("nvmlDeviceGetName", device)


def nvmlDeviceGetUUID(device: Any) -> str:
    return _text("nvmlDeviceGetUUID", device)


def nvmlDeviceGetCudaComputeCapability(device: Any) -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call("nvmlDeviceGetCudaComputeCapability", device, ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def nvmlDeviceGetPciInfo(device: Any) -> _PciInfo:
    found = _PciInfo()
    _call("nvmlDeviceGetPciInfo_v3", device, ctypes.byref(found))
    return found


def nvmlDeviceGetMemoryInfo(device: Any) -> _Memory:
    found = _Memory()
    _call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(found))
    return found


def nvmlDeviceGetMigMode(device: Any) -> tuple[int, int]:
    current, pending = ctypes.c_uint(), ctypes.c_uint()
    _call("nvmlDeviceGetMigMode", device, ctypes.byref(current), ctypes.byref(pending))
    return current.value, pending.value


def nvmlDeviceGetMaxMigDeviceCount(device: Any) -> int:
    return _number("nvmlDeviceGetMaxMigDeviceCount", device)


def nvmlDeviceGetMigDeviceHandleByIndex(device: Any, index: int) -> ctypes.c_void_p:
    return _handle("nvmlDeviceGetMigDeviceHandleByIndex", device, ctypes.c_uint(index))


def nvmlDeviceGetGpuInstanceId(device: Any) -> int:
    return _number("nvmlDeviceGetGpuInstanceId", device)


def nvmlDeviceGetComputeInstanceId(device: Any) -> int:
    return _number("nvmlDeviceGetComputeInstanceId", device)


def nvmlDeviceGetNumGpuCores(device: Any) -> int:
    return _number("nvmlDeviceGetNumGpuCores", device)


def nvmlDeviceGetMaxClockInfo(device: Any, clock: int) -> int:
    return _number("nvmlDeviceGetMaxClockInfo", device, ctypes.c_uint(clock))
