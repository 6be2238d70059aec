"""The compile tests fail where they should: kernels spoilt on purpose, seen by the same judges."""

from __future__ import annotations

import dataclasses
import os

import pytest

from accel_kernels.cuda_provider import compiling, nvrtc
from accel_kernels.cuda_provider.compiling import Program

needs_nvrtc = pytest.mark.skipif(
    not list(nvrtc.candidates()), reason="no NVRTC here: pip install nvidia-cuda-nvrtc"
)


CROWDED = """__global__ void __launch_bounds__(1024, BLOCKS_HERE) crowded(float* out) {
    float held[COUNT];
    #pragma unroll
    for (int i = 0; i < COUNT; i++) held[i] = out[i * 1024 + threadIdx.x];
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < COUNT; i++) out[(COUNT - 1 - i) * 1024 + threadIdx.x] = held[i] * held[0];
}"""


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90", "sm_121"])
def test_a_cuda_kernel_that_spills_fails(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import test_cuda_compile

    monkeypatch.setattr(compiling, "sources", lambda: {"crowded.cu": CROWDED})
    test_cuda_compile.judge(Program.of("crowded.cu", COUNT=8, BLOCKS_HERE=1), architecture)
    with pytest.raises(AssertionError, match=r"bytes (stack frame|spill)"):
        test_cuda_compile.judge(Program.of("crowded.cu", COUNT=96, BLOCKS_HERE=1), architecture)


@needs_nvrtc
def test_a_cuda_kernel_with_too_much_shared_memory_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import test_cuda_compile

    greedy = """__global__ void greedy(int* out) {
        __shared__ int held[SIZE];
        held[threadIdx.x] = out[threadIdx.x];
        __syncthreads();
        out[threadIdx.x] = held[SIZE - 1 - threadIdx.x];
    }"""
    monkeypatch.setattr(compiling, "sources", lambda: {"greedy.cu": greedy})
    test_cuda_compile.judge(Program.of("greedy.cu", SIZE=12 << 10), "sm_121")
    with pytest.raises((AssertionError, nvrtc.CompileError), match=r"smem|shared"):
        test_cuda_compile.judge(Program.of("greedy.cu", SIZE=13 << 10), "sm_121")


@pytest.mark.parametrize("architecture", ["sm_120", "sm_121"])
def test_a_triton_kernel_with_too_much_shared_memory_fails(architecture: str) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("nothing is compiled in the interpreter")
    import test_triton_compile
    from accel_kernels.triton_provider.compiling import Config, make, shipped
    from accel_kernels.triton_provider.configs import shared_limit

    deep = Config(block_m=64, block_n=64, block_k=128, warps=8, stages=8, splits=1)
    kernel = dataclasses.replace(next(shipped(architecture, 4, 128, "bfloat16")), config=deep)
    assert make(kernel, architecture).shared > shared_limit(architecture) == 99 << 10
    with pytest.raises(AssertionError):
        test_triton_compile.check(architecture, kernel)
