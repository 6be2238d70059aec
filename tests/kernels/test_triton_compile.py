"""Every Triton kernel compiles for every architecture, without spills, within shared memory."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled in the interpreter", allow_module_level=True)

from accel_kernels.triton_provider import compiling
from accel_kernels.triton_provider.compiling import Kernel, make, shipped
from accel_kernels.triton_provider.configs import shared_limit

NVIDIA = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "sm_121")
AMD = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
MATRIX = {"gfx9": "v_mfma_", "gfx1": "v_wmma_", "sm_90": "wgmma.mma_async", "sm_10": "tcgen05.mma"}


def matrix_instruction(arch: str, kernel: Kernel) -> str:
    """What must multiply; the largest units take no fewer than 64 rows of the left operand."""
    left = kernel.config.block_n if kernel.name == "linear" else kernel.config.block_m
    right = kernel.config.block_m if kernel.name == "linear" else kernel.config.block_k
    if arch.startswith("sm_") and (left < 64 or right < 16):
        return "mma.sync"
    return next((name for start, name in MATRIX.items() if arch.startswith(start)), "mma.sync")


def cases(bits: int, group: int, dtype: str) -> list[object]:
    return [
        pytest.param(arch, kernel, id=f"{arch}-{kernel}")
        for arch in (*NVIDIA, *AMD)
        for kernel in shipped(arch, bits, group, dtype)
    ]


def check(arch: str, kernel: Kernel) -> None:
    made = make(kernel, arch)
    assert made.spilled == 0
    assert made.shared <= shared_limit(arch)
    if kernel.name != "dequantize":
        assert matrix_instruction(arch, kernel) in made.assembly


@pytest.mark.parametrize(("arch", "kernel"), cases(4, 128, "bfloat16"))
def test_four_bits(arch: str, kernel: Kernel) -> None:
    check(arch, kernel)


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize(
    ("arch", "kernel"),
    [
        *cases(4, 32, "float16"),
        *cases(4, 0, "bfloat16"),
        *cases(8, 128, "bfloat16"),
        *cases(2, 64, "float16"),
    ],
)
def test_other_formats(arch: str, kernel: Kernel) -> None:
    check(arch, kernel)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_words_are_expanded_in_the_registers_they_are_multiplied_from(arch: str) -> None:
    """A weight that goes through shared memory, or is converted from an integer, is slow."""
    decode = next(shipped(arch, 4, 128, "bfloat16"))
    code = make(decode, arch).assembly
    body = code[code.index("cp.async") : code.rindex("cp.async")]
    assert "mma" in body
    assert "lop3" in body
    assert "cvt.rn.bf16.s" not in body
    assert "st.shared" not in body


def test_a_spill_would_be_seen() -> None:
    kernel = next(shipped("gfx1100", 4, 128, "bfloat16"))
    crowded = compiling.Config(block_m=128, block_n=128, block_k=64, warps=4, stages=3, splits=2)
    made = make(compiling.dataclasses.replace(kernel, config=crowded), "gfx1100")
    assert made.spilled > 0
