"""From a kernel's source and constants to machine code for one GPU, compiled once and kept."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from importlib import resources

from accel_kernels.cuda_provider import nvrtc
from accel_kernels.cuda_provider.cache import KernelCache, folder
from accel_kernels.telling import tell

OPTIONS = ("--std=c++17", "--ptxas-options=-v")


@dataclasses.dataclass(frozen=True)
class Program:
    """One source file under kernels/ and the constants it is compiled with.

    `variant` is "a" for what exists on one architecture and no later one: sm_90a.
    """

    file: str
    constants: tuple[tuple[str, int], ...]
    variant: str = ""

    @classmethod
    def of(cls, file: str, *, variant: str = "", **constants: int) -> Program:
        """The constants by name; their order does not matter."""
        return cls(file, tuple(sorted(constants.items())), variant)


@functools.lru_cache(maxsize=1)
def sources() -> dict[str, str]:
    """The text of every file under kernels/, by name."""
    folder = resources.files(__package__) / "kernels"
    return {
        item.name: item.read_text(encoding="utf-8")
        for item in folder.iterdir()
        if item.name.endswith((".cu", ".cuh"))
    }


def compile_for(program: Program, architecture: str) -> tuple[bytes, str]:
    """Machine code, and the log with the registers and spills of each kernel; not cached.

    BLOCKS, the blocks of a multiprocessor, limits a thread's registers. Where they do not suffice,
    as happens for rare formats and differs from one GPU to the next, fewer blocks are compiled for.
    Raises CompileError, or CapabilityUnavailable where there is no NVRTC.
    """
    code, log = _compile(program, architecture)
    blocks = dict(program.constants).get("BLOCKS", 1)
    while spills(log) and blocks > 1:
        blocks -= 1
        fewer = {**dict(program.constants), "BLOCKS": blocks}
        smaller = Program.of(program.file, variant=program.variant, **fewer)
        code, log = _compile(smaller, architecture)
    return code, log


def spills(log: str) -> int:
    """Bytes of registers that a kernel had to put into memory, by the compiler's log."""
    return sum(int(count) for count in re.findall(r"(\d+) bytes (?:stack frame|spill)", log))


def _compile(program: Program, architecture: str) -> tuple[bytes, str]:
    headers = {name: text for name, text in sources().items() if name.endswith(".cuh")}
    constants = [f"-D{name}={value}" for name, value in program.constants]
    options = [f"--gpu-architecture={architecture}", *OPTIONS, *constants]
    return nvrtc.load().compile(sources()[program.file], program.file, options, headers)


def binary(program: Program, capability: tuple[int, int]) -> bytes:
    """Machine code for a GPU of that compute capability, or PTX where NVRTC is older than it."""
    exact = f"sm_{capability[0]}{capability[1]}{program.variant}"
    kept = _cache()
    held = kept.peek(key_of(program, exact))
    if held is not None:
        return held
    architecture = nvrtc.target(capability, nvrtc.load().architectures()) + program.variant
    return kept.get(key_of(program, architecture), lambda: compile_for(program, architecture)[0])


def key_of(program: Program, architecture: str) -> str:
    """What a binary is kept under: everything that it was made from."""
    text = repr((architecture, OPTIONS, program, sorted(sources().items())))
    return hashlib.sha256(text.encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def _cache() -> KernelCache:
    return KernelCache(folder(), tell)
