"""Compiles the kernels for a device that need not be there, and reads what the compiler made."""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from accel_kernels.triton_provider import configs, kernels
from accel_kernels.triton_provider.configs import Config, Problem, Product
from accel_kernels.triton_provider.layout import ROWS, chunk_inputs

_POINTERS = {"w_ptr": "*i16", "meta_ptr": "*i32", "partial_ptr": "*fp32", "locks_ptr": "*i32"}
_NAMES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
_MULTIPLES_OF_16 = ("N", "K", "n_padded", "row", "first_n", "first_k", "last_k")
WAVE_64 = ("gfx8", "gfx9")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel as it is launched: everything that is known at compile time."""

    name: str
    bits: int
    group: int
    dtype: str
    config: Config
    scale: str = "float16"

    def __str__(self) -> str:
        cut, split = self.config, "-split" if self.config.splits > 1 else ""
        return (
            f"{self.name}-{self.bits}bit-g{self.group}-{self.dtype}-"
            f"m{cut.block_m}n{cut.block_n}k{cut.block_k}w{cut.warps}s{cut.stages}{split}"
        )


@dataclasses.dataclass(frozen=True)
class Made:
    """What came out: bytes of shared memory, bytes or registers spilled, and the assembly."""

    shared: int
    spilled: int
    assembly: str


def target(arch: str) -> GPUTarget:
    """Triton's name of an architecture: `sm_90` or `gfx942`."""
    if arch.startswith("sm_"):
        return GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    return GPUTarget("hip", arch, 64 if arch.startswith(WAVE_64) else 32)


def shipped(arch: str, bits: int, group: int, dtype: str) -> Iterator[Kernel]:
    """The kernels that the defaults launch on `arch` for every M, on small and large layers."""
    seen = set()
    for product, outputs, m_class in itertools.product(
        get_args(Product), (4096, 65536), configs.M_CLASSES
    ):
        problem = Problem(product, arch, 64, bits, group, 4096, outputs, m_class, dtype)
        config = configs.default(problem)
        config = dataclasses.replace(config, splits=min(config.splits, 2))
        if not config.slab and (product, config) not in seen:
            seen.add((product, config))
            name = "linear" if product == "forward" else "gradient"
            yield Kernel(name, bits, group, dtype, config)
    block_k = max(128, chunk_inputs(bits))
    yield Kernel("dequantize", bits, group, dtype, Config(block_k=block_k, stages=1))


def make(kernel: Kernel, arch: str) -> Made:
    """Compile for `arch`. Raises what Triton raises where it cannot."""
    function, config = getattr(kernels, kernel.name), kernel.config
    nvidia = arch.startswith("sm_")
    constants: dict[str, Any] = {
        "BITS": kernel.bits,
        "GROUP": kernel.group,
        "SCALE": getattr(tl, kernel.scale),
        "DTYPE": getattr(tl, kernel.dtype),
        "NB": config.block_n // ROWS,
        "KB": config.block_k // chunk_inputs(kernel.bits),
        "BM": config.block_m,
        "SPLIT": config.splits > 1,
        "POST": config.post,
        "PTX": nvidia,
        "EVEN_K": True,
    }
    signature, aligned = {}, {}
    for index, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        pointer = name.endswith("_ptr")
        signature[name] = _POINTERS.get(name, "*" + _NAMES[kernel.dtype]) if pointer else "i32"
        if pointer or name in _MULTIPLES_OF_16:
            aligned[(index,)] = [["tt.divisibility", 16]]
    known = {name: value for name, value in constants.items() if name in signature}
    source = ASTSource(function, signature, known, aligned)
    options = {"num_warps": config.warps, "num_stages": config.stages}
    made = triton.compile(source, target=target(arch), options=options)
    if nvidia:
        return Made(made.metadata.shared, _spilled(made.asm["ptx"]), made.asm["ptx"])
    assembly = made.asm["amdgcn"]
    spills = re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", assembly)
    return Made(made.metadata.shared, sum(map(int, spills)), assembly)


def _spilled(ptx: str) -> int:
    """Bytes of stack and of spills that the assembler reports."""
    found = re.search(r"\.target (sm_(\d+)\w*)", ptx)
    assert found is not None
    tools = triton.knobs.nvidia
    tool = tools.ptxas_blackwell if int(found[2]) >= 100 else tools.ptxas
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        words = [tool.path, "-v", f"--gpu-name={found[1]}", source, "-o", source.with_suffix(".o")]
        report = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    return sum(
        map(int, re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", report))
    )
