"""The host processor: its name by its units, what it can do, and that nothing is made of it."""

from __future__ import annotations

import pytest
from asking import (
    best,
    capabilities,
    changed,
    check_facts,
    devices,
    fake,
    imports_no_torch,
    refused,
)

from accel.testing import machine
from accel.values import Feature

PLUGIN = "accel_cpu"
MACHINES = ("kunpeng-920", "x86-avx2", "x86-avx512-bf16", "x86-amx")


@pytest.mark.parametrize(
    ("name", "model", "arch"),
    [
        ("kunpeng-920", "Kunpeng-920", "aarch64"),
        ("x86-avx2", "AMD EPYC 7742 64-Core Processor", "x86_64_avx2"),
        ("x86-avx512-bf16", "AMD EPYC 9654 96-Core Processor", "x86_64_avx512_bf16"),
        ("x86-amx", "Intel(R) Xeon(R) Platinum 8480+", "x86_64_amx_bf16"),
        ("ascend-910c-x16", "aarch64_bf16", "aarch64_bf16"),
    ],
)
def test_each_recorded_processor_is_named_by_its_units(name: str, model: str, arch: str) -> None:
    found = devices(PLUGIN, machine(name))
    assert [(d.name, d.arch, d.kind, d.torch_name) for d in found] == [(model, arch, "cpu", "cpu")]
    assert found[0].memory == machine(name).memory().total
    assert found[0].memory_model == "unified"
    assert found[0].usable


@pytest.mark.parametrize(
    ("platform", "flags", "arch"),
    [
        (("Linux", "x86_64"), {"sse2"}, "x86_64"),
        (("Windows", "AMD64"), {"avx2", "fma"}, "x86_64_avx2"),
        (("Linux", "x86_64"), {"avx512f", "avx512bw", "avx512dq", "avx512vl"}, "x86_64_avx512"),
        # a hypervisor may show AMX and hide AVX-512, which its kernels need as well
        (("Linux", "x86_64"), {"amx_tile", "amx_bf16", "avx2", "fma"}, "x86_64_avx2"),
        (("Darwin", "arm64"), set(), "arm64"),
        (("Linux", "riscv64"), set(), "riscv64"),
    ],
)
def test_architecture(platform: tuple[str, str], flags: set[str], arch: str) -> None:
    system, name = platform
    here = fake(
        platform={"system": system, "arch": name, "python": "3.12.3"},
        cpu={"model": "some processor", "flags": sorted(flags), "count": 4},
    )
    assert devices(PLUGIN, here)[0].arch == arch
    found = capabilities(PLUGIN, here)
    assert best(found, Feature.DTYPE) == "float32"
    assert best(found, Feature.ATTENTION) == "sdpa"


@pytest.mark.parametrize("name", MACHINES)
def test_training_stays_in_float32_and_half_is_refused(name: str) -> None:
    found = capabilities(PLUGIN, machine(name))
    assert best(found, Feature.DTYPE) == "float32"
    assert found.supports(Feature.DTYPE, "bfloat16")
    assert "loss scaling" in refused(found, Feature.DTYPE, "float16")
    assert "GPUs" in refused(found, Feature.ATTENTION, "flash_attention_2")
    assert best(found, Feature.COLLECTIVE) == "gloo"
    assert "no backend for processors" in refused(found, Feature.QUANT, "gptq_triton")


def test_bfloat16_without_units_says_what_it_costs() -> None:
    slow = capabilities(PLUGIN, machine("x86-avx2")).require(Feature.DTYPE, "bfloat16").impl
    fast = capabilities(PLUGIN, machine("x86-amx")).require(Feature.DTYPE, "bfloat16").impl
    assert "slower than float32" in slow.note
    assert "AMX" in fast.note
    assert slow.priority < fast.priority


def test_quantised_layers_need_their_packages() -> None:
    without = capabilities(PLUGIN, machine("x86-avx2"))
    assert "not installed" in refused(without, Feature.QUANT, "bitsandbytes_4bit")
    found = capabilities(PLUGIN, machine("x86-avx512-bf16"))
    for name in ("bitsandbytes_4bit", "torchao_int4", "gptq_torch", "awq_torch"):
        assert found.supports(Feature.QUANT, name)
    old = {**machine("x86-avx512-bf16").distributions(), "bitsandbytes": "0.45.0"}
    before = capabilities(PLUGIN, changed(machine("x86-avx512-bf16"), distributions=old))
    assert "found 0.45.0" in refused(before, Feature.QUANT, "bitsandbytes_4bit")


def test_compile_needs_a_compiler() -> None:
    assert capabilities(PLUGIN, machine("x86-avx2")).supports(Feature.OP, "compile")
    bare = machine("x86-amx")
    assert "no compiler" in refused(capabilities(PLUGIN, bare), Feature.OP, "compile")
    named = changed(bare, env={"CXX": "/opt/llvm/bin/clang++"})
    assert capabilities(PLUGIN, named).supports(Feature.OP, "compile")


def test_a_container_s_share_is_told() -> None:
    limited = devices(PLUGIN, machine("x86-avx512-bf16"))[0].attributes
    assert limited == {
        "maker": "amd",
        "processors": 192,
        "quota": 4.0,
        "memory_limit": 32 * 2**30,
    }
    assert devices(PLUGIN, machine("kunpeng-920"))[0].attributes == {
        "maker": "huawei",
        "processors": 128,
    }
    first_version = fake(
        files={
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )
    assert devices(PLUGIN, first_version)[0].attributes["quota"] == 1.5


def test_the_vendor_is_never_that_of_a_graphics_card() -> None:
    """Else `device="amd"` would mean the processor wherever AMD's card is not usable."""
    assert {devices(PLUGIN, machine(name))[0].vendor for name in MACHINES} == {"cpu"}


def test_an_arm_part_means_nothing_without_its_implementer() -> None:
    info = "CPU implementer\t: 0x41\nCPU part\t: 0xd01\n"
    here = changed(machine("kunpeng-920"), files={"/proc/cpuinfo": info})
    assert devices(PLUGIN, here)[0].name == "Arm part 0xd01"


def test_facts() -> None:
    facts = check_facts(PLUGIN)
    for arch in facts.archs.values():
        if "trap" in arch.extra:
            assert arch.extra["trap"]["source"] in facts.sources


def test_detection_imports_no_torch() -> None:
    imports_no_torch(PLUGIN, "x86-amx")
