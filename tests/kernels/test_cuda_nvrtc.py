"""Finding NVRTC, what to compile for, errors, and a provider that is inert without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import accel_kernels.cuda_provider.provider
from accel.errors import CapabilityUnavailable
from accel_kernels import providers
from accel_kernels.cuda_provider import compiling, nvrtc
from accel_kernels.cuda_provider.cache import KernelCache
from accel_kernels.cuda_provider.compiling import Program
from test_cuda_layout import a_disorderly_weight
from test_formats import random_weight

refuses_weight = accel_kernels.cuda_provider.provider.refuses_weight
needs_nvrtc = pytest.mark.skipif(
    not list(nvrtc.candidates()), reason="no NVRTC here: pip install nvidia-cuda-nvrtc"
)
DEQUANTIZE = Program.of("dequantize.cu", BITS=4, BF16=0, GROUP=32, SCALE=0, OUT=0)


def test_the_devices_own_architecture_comes_first() -> None:
    supported = (75, 80, 86, 89, 90, 100, 103, 120, 121)
    assert nvrtc.target((12, 1), supported) == "sm_121"
    assert nvrtc.target((9, 0), supported) == "sm_90"


def test_a_gpu_newer_than_nvrtc_gets_ptx_for_the_driver_to_finish() -> None:
    assert nvrtc.target((12, 1), (75, 80, 90, 120)) == "compute_120"
    assert nvrtc.target((13, 0), (75, 121)) == "compute_121"


def test_a_gpu_older_than_nvrtc_is_an_error_with_a_remedy() -> None:
    with pytest.raises(CapabilityUnavailable, match="sm_61") as caught:
        nvrtc.target((6, 1), (75, 80))
    assert "pip install" in caught.value.remedy


def test_no_nvrtc_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "candidates", lambda: iter(()))
    nvrtc.load.cache_clear()
    try:
        with pytest.raises(CapabilityUnavailable, match="NVRTC") as caught:
            nvrtc.load()
    finally:
        nvrtc.load.cache_clear()
    assert caught.value.remedy == "pip install nvidia-cuda-nvrtc"


def test_a_library_that_cannot_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "libnvrtc.so.13"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(nvrtc, "candidates", lambda: iter([broken]))
    nvrtc.load.cache_clear()
    try:
        with pytest.raises(CapabilityUnavailable) as caught:
            nvrtc.load()
    finally:
        nvrtc.load.cache_clear()
    assert str(broken) in str(caught.value)


@pytest.mark.skipif(nvrtc.WINDOWS, reason="file names as Linux has them")
def test_libraries_are_found_in_wheels_and_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = [
        "nvidia/cu13/lib/libnvrtc.so.13",
        "nvidia/cu13/lib/libnvrtc-builtins.so.13.0",
        "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        "torch/lib/libnvrtc-672ee683.so.11.2",
    ]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)

    def found() -> list[str]:
        here = [path for path in nvrtc.candidates() if tmp_path in path.parents]
        return [str(path.relative_to(tmp_path)) for path in here]

    monkeypatch.setattr(torch.version, "cuda", None)
    assert found() == [names[0], names[2], names[3]]
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert found() == [names[2], names[0], names[3]]


@needs_nvrtc
def test_a_kernel_that_does_not_compile_is_an_error_with_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        compiling, "sources", lambda: {"bad.cu": "__global__ void f() { nosuch(); }"}
    )
    with pytest.raises(nvrtc.CompileError, match="nosuch"):
        compiling.compile_for(Program.of("bad.cu"), "sm_90")


@needs_nvrtc
def test_ptx_for_a_newer_gpu_is_ptx() -> None:
    code, _ = compiling.compile_for(DEQUANTIZE, "compute_90")
    assert b".target sm_90" in code
    assert code.endswith(b"\0"), "the driver reads PTX as a C string"


@needs_nvrtc
def test_a_binary_on_disk_needs_no_nvrtc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiling, "_cache", lambda: KernelCache(tmp_path / "kernels"))
    built = compiling.binary(DEQUANTIZE, (9, 0))
    assert built.startswith(b"\x7fELF")
    monkeypatch.setattr(nvrtc, "load", lambda: pytest.fail("NVRTC was asked for"))
    assert compiling.binary(DEQUANTIZE, (9, 0)) == built


def test_another_kernel_text_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compiling.key_of(DEQUANTIZE, "sm_90")
    assert compiling.key_of(DEQUANTIZE, "sm_80") != before
    changed = {**compiling.sources(), "common.cuh": "// changed"}
    monkeypatch.setattr(compiling, "sources", lambda: changed)
    assert compiling.key_of(DEQUANTIZE, "sm_90") != before


def test_without_a_gpu_the_provider_says_so_and_another_serves() -> None:
    weight = random_weight(4, 64, 16, 32)
    assert "NVIDIA GPU" in str(providers.named("cuda").refuses(weight, torch.device("cpu")))
    chosen, reasons = providers.choose(weight, torch.device("cpu"), ["cuda", "torch"])
    assert chosen.name == "torch"
    assert reasons == ["cuda: needs an NVIDIA GPU, not cpu"]


@pytest.mark.parametrize(
    ("bits", "k", "group", "act", "reason"),
    [
        (3, 64, 32, False, "4 and 8 bits"),
        (4, 64, 16, False, "multiple of 32"),
        (4, 68, -1, False, "multiple of 8"),
        (4, 64, 32, True, None),
        (8, 40, -1, False, None),
        (4, 64, 32, False, None),
    ],
)
def test_what_it_takes_and_what_not(
    bits: int, k: int, group: int, act: bool, reason: str | None
) -> None:
    found = refuses_weight(random_weight(bits, k, 32, group, act_order=act))
    assert (found is None) if reason is None else (reason in str(found))


def test_uneven_groups_and_odd_scales_are_refused() -> None:
    assert "g_idx" in str(refuses_weight(a_disorderly_weight()))
    weight = random_weight(4, 64, 16, 32)
    object.__setattr__(weight, "scales", weight.scales.double())
    assert "fp32" in str(refuses_weight(weight))


def test_importing_it_loads_nothing_of_cuda() -> None:
    script = (
        "import sys, accel_kernels.cuda_provider.provider, torch\n"
        "maps = open('/proc/self/maps').read() if sys.platform == 'linux' else ''\n"
        "assert 'libnvrtc.so' not in maps and 'cubin' not in maps\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('cuda', 'cupy')]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
