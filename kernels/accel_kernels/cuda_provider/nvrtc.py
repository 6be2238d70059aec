"""CUDA C++ source to machine code through NVRTC, by ctypes: no headers, no nvcc, no driver.

Source of the calls: "NVRTC" in NVIDIA's CUDA documentation; the interface used here is the same in
CUDA 11.8 to 13.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from accel.errors import AccelError, CapabilityUnavailable

REMEDY = "pip install nvidia-cuda-nvrtc"
WINDOWS = os.name == "nt"
_NAME = re.compile(
    r"nvrtc64_(\d+)_\d+\.dll$" if WINDOWS else r"libnvrtc(?:-[0-9a-f]+)?\.so\.(\d+)(?:\.\d+)*$"
)


class CompileError(AccelError):
    """NVRTC refused a kernel; `found` is its log."""


class Nvrtc:
    """One loaded NVRTC library."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # The library opens its built-ins by name, which fails where its folder is not searched.
        for builtins in sorted(path.parent.glob("*nvrtc-builtins*")):
            ctypes.CDLL(str(builtins), mode=getattr(ctypes, "RTLD_GLOBAL", 0))
        self._library = ctypes.CDLL(str(path))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    def architectures(self) -> tuple[int, ...]:
        """What it can compile for, as 75, 80, ... 121."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", found)
        return tuple(found)

    def compile(
        self, source: str, name: str, options: Sequence[str], headers: Mapping[str, str]
    ) -> tuple[bytes, str]:
        """The machine code (PTX where the options name a virtual architecture), and the log.

        Raises CompileError.
        """
        program = ctypes.c_void_p()
        names = (ctypes.c_char_p * len(headers))(*(key.encode() for key in headers))
        texts = (ctypes.c_char_p * len(headers))(*(text.encode() for text in headers.values()))
        self._call(
            "nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(),
            len(headers), texts, names,
        )  # fmt: skip
        try:
            flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            status = self._library.nvrtcCompileProgram(program, len(options), flags)
            log = self._read(program, "ProgramLog").decode(errors="replace").strip("\0\n")
            if status:
                raise CompileError(
                    f"{name} must compile with NVRTC {self.version[0]}.{self.version[1]} "
                    f"({' '.join(options)})",
                    found=f"{self._message(status)}\n{log}",
                    remedy=f"{REMEDY} --upgrade",
                )
            virtual = any(option.endswith(_virtual(option)) for option in options)
            return self._read(program, "PTX" if virtual else "CUBIN"), log
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise CompileError(
                f"{name} of {self.path} must succeed", found=self._message(status), remedy=REMEDY
            )

    def _message(self, status: int) -> str:
        text: bytes = self._library.nvrtcGetErrorString(status)
        return text.decode()


def _virtual(option: str) -> str:
    """What a virtual architecture's option ends with; something no option ends with otherwise."""
    found = re.search(r"architecture=(compute_\w+)$", option)
    return found.group(1) if found else "\0"


def target(capability: tuple[int, int], supported: Sequence[int]) -> str:
    """The architecture to compile for: the device's own, or the newest older one as PTX.

    The driver finishes PTX for a GPU that is newer than this NVRTC. Raises CapabilityUnavailable
    where the GPU is older than anything NVRTC knows.
    """
    number = capability[0] * 10 + capability[1]
    if number in supported:
        return f"sm_{number}"
    older = [known for known in supported if known < number]
    if not older:
        raise CapabilityUnavailable(
            f"a GPU that NVRTC can compile for ({', '.join(map(str, supported))})",
            found=f"sm_{number}",
            remedy='pip install "nvidia-cuda-nvrtc<13"',
        )
    return f"compute_{max(older)}"


def candidates() -> Iterator[Path]:
    """NVRTC libraries on this machine: torch's own CUDA version first, then newer before older."""
    folders = [Path(entry) / "nvidia" for entry in sys.path if entry]
    found: list[Path] = []
    for folder in folders:
        for inner in ("*/lib", "*/bin", "*/bin/x86_64"):
            found += folder.glob(f"{inner}/*nvrtc*")
    found += [path for entry in sys.path if entry for path in Path(entry).glob("torch/lib/*nvrtc*")]
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            root = Path(os.environ[variable])
            found += [*root.glob("lib64/libnvrtc*"), *root.glob("bin/nvrtc64*")]
    found += Path("/usr/local").glob("cuda*/lib64/libnvrtc*")
    usable = [path for path in found if _NAME.search(path.name)]
    yield from sorted(dict.fromkeys(usable), key=_preference)


def _preference(path: Path) -> tuple[bool, int]:
    match = _NAME.search(path.name)
    major = int(match.group(1)) if match else 0
    return (str(major) != _torch_cuda().partition(".")[0], -major)


def _torch_cuda() -> str:
    import torch

    return str(getattr(torch.version, "cuda", None) or "")


@functools.lru_cache(maxsize=1)
def load() -> Nvrtc:
    """The first NVRTC that can be loaded. Raises CapabilityUnavailable with what was tried."""
    reasons = []
    for path in candidates():
        try:
            return Nvrtc(path)
        except (OSError, AttributeError, CompileError) as error:
            reasons.append(f"{path}: {error}")
    raise CapabilityUnavailable(
        "NVRTC, NVIDIA's run-time compiler, is needed for the CUDA kernels",
        found="none that can be loaded" if reasons else "none on this machine",
        reasons=reasons,
        remedy=REMEDY,
    )
