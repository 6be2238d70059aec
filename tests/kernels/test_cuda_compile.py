"""Every CUDA kernel that can be chosen, compiled for every GPU that it is for, without any."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

import pytest
import torch

from accel_kernels.cuda_provider import compiling, nvrtc, planning
from accel_kernels.cuda_provider.compiling import Program
from accel_kernels.cuda_provider.planning import Cut, Gpu
from accel_kernels.providers import Shape

ARCHITECTURES = (
    "sm_75",
    "sm_80",
    "sm_86",
    "sm_89",
    "sm_90",
    "sm_100",
    "sm_103",
    "sm_120",
    "sm_121",
)
STATIC_SHARED = 48 << 10
# Shared memory of a block and of a multiprocessor, warps of a multiprocessor: "Technical
# Specifications per Compute Capability" in the CUDA C++ Programming Guide.
LIMITS = {
    "sm_75": (64 << 10, 64 << 10, 32),
    "sm_80": (163 << 10, 164 << 10, 64),
    "sm_86": (99 << 10, 100 << 10, 48),
    "sm_89": (99 << 10, 100 << 10, 48),
    "sm_90": (227 << 10, 228 << 10, 64),
    "sm_100": (227 << 10, 228 << 10, 64),
    "sm_103": (227 << 10, 228 << 10, 64),
    "sm_120": (99 << 10, 100 << 10, 48),
    "sm_121": (99 << 10, 100 << 10, 48),
}
SCALES = {torch.float16, torch.bfloat16, torch.float32}

pytestmark = pytest.mark.skipif(
    not list(nvrtc.candidates()), reason="no NVRTC here: pip install nvidia-cuda-nvrtc"
)


@dataclasses.dataclass(frozen=True)
class Form:
    """The dtypes of activations, scales and results."""

    bfloat: bool
    scales: torch.dtype
    float_out: bool


FORMS = (
    Form(bfloat=False, scales=torch.float16, float_out=False),
    Form(bfloat=True, scales=torch.bfloat16, float_out=False),
    Form(bfloat=True, scales=torch.float16, float_out=False),
    Form(bfloat=False, scales=torch.bfloat16, float_out=True),
    Form(bfloat=False, scales=torch.float32, float_out=True),
)


def forms(architecture: str) -> list[Form]:
    """Turing takes bf16 activations in pieces of fp16."""
    return [form for form in FORMS if not form.bfloat or capability(architecture) >= (8, 0)]


def capability(architecture: str) -> tuple[int, int]:
    number = int(architecture.removeprefix("sm_"))
    return (number // 10, number % 10)


def gpu(architecture: str) -> Gpu:
    return Gpu(capability(architecture), 100, *LIMITS[architecture])


def decode_programs(
    architecture: str, bits: int, group: int, form: Form, splits: Sequence[int]
) -> Iterator[tuple[Program, Cut]]:
    """Every decode kernel that can be chosen for weights of that format."""
    shape = Shape(bits, group or 4096, 4096, 4096)
    for rows in (1, 2, 4):
        for candidate in planning.candidates(shape, rows, form.scales, gpu(architecture)):
            for split in splits:
                cut = candidate.cut(rows, split)
                yield planning.decode_program(
                    cut, shape, form.scales, capability(architecture),
                    bfloat=form.bfloat, float_out=form.float_out,
                ), cut  # fmt: skip


def judge(program: Program, architecture: str) -> str:
    """Compile; fail on spills, a stack frame or too much static shared memory; the log."""
    code, log = compiling.compile_for(program, architecture)
    assert code.startswith(b"\x7fELF")
    used = re.findall(r"Used (\d+) registers", log)
    assert used, f"no resource report in {log!r}"
    for what in ("bytes stack frame", "bytes spill stores", "bytes spill loads"):
        amounts = [int(amount) for amount in re.findall(rf"(\d+) {what}", log)]
        assert len(amounts) == len(used)
        assert amounts == [0] * len(used), f"{program} for {architecture}: {amounts} {what}"
    assert all(int(smem) <= STATIC_SHARED for smem in re.findall(r"(\d+) bytes smem", log))
    return log


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_common_checkpoints_need(architecture: str) -> None:
    for form in forms(architecture)[:2]:
        for program, cut in decode_programs(architecture, 4, 128, form, (1, 2)):
            log = judge(program, architecture)
            registers = max(int(used) for used in re.findall(r"Used (\d+) registers", log))
            fits = registers * cut.warps * 32 * cut.blocks <= 65536
            assert fits or architecture != "sm_90", "what was measured there must stay as it was"


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_format(architecture: str) -> None:
    for bits, group, form in itertools.product((4, 8), (0, 32, 128), forms(architecture)):
        for program, _ in decode_programs(architecture, bits, group, form, (1,)):
            judge(program, architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dequantising(architecture: str) -> None:
    for bits, group, scale, out in itertools.product((4, 8), (0, 32), (0, 1, 2), (0, 1, 2)):
        judge(
            Program.of("dequantize.cu", BITS=bits, BF16=0, GROUP=group, SCALE=scale, OUT=out),
            architecture,
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("k", [64, 896, 4096, 18944, 29568])
@pytest.mark.parametrize("n", [64, 1024, 4096, 37888])
def test_what_is_chosen_fits_the_gpu(architecture: str, bits: int, k: int, n: int) -> None:
    for rows, scales, group in itertools.product((1, 8, 9, 16, 17, 64), SCALES, (32, 128, k)):
        if group > k:
            continue
        shape = Shape(bits, group, k, n)
        cut = planning.choose(shape, rows, scales, gpu(architecture))
        block, _, warps = LIMITS[architecture]
        assert cut.shared_bytes(shape, scales) <= block
        assert cut.warps <= warps
        assert not (cut.ring and capability(architecture) < (8, 0))
        assert 8 * cut.rows >= min(rows, 32)


def test_the_instructions_that_were_meant() -> None:
    """The tensor cores' instruction for each generation, and copies that bypass registers."""
    shape = Shape(4, 128, 4096, 4096)

    def ptx(number: int, *, bfloat: bool, rows: int) -> bytes:
        device = gpu(f"sm_{number}")
        candidate = planning.candidates(shape, rows, torch.float16, device)[0]
        program = planning.decode_program(
            candidate.cut(rows, 2), shape, torch.float16, device.capability,
            bfloat=bfloat, float_out=False,
        )  # fmt: skip
        return compiling.compile_for(program, f"compute_{number}")[0]

    assert b"m16n8k8.row.col.f32.f16.f16.f32" in ptx(75, bfloat=False, rows=1)
    assert b"m16n8k16.row.col.f32.bf16.bf16.f32" in ptx(80, bfloat=True, rows=1)
    ampere, hopper = ptx(80, bfloat=True, rows=2), ptx(90, bfloat=True, rows=2)
    assert b"cp.async.cg.shared.global" in ampere
    assert b"griddepcontrol" not in ampere
    assert b"barrier.cluster" not in ampere
    assert b"griddepcontrol.wait" in hopper
    assert b"ld.shared::cluster" in hopper
