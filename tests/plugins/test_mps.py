"""accel_mps on a recorded machine, and on older and odder ones."""

from __future__ import annotations

from typing import Any

import asking
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.recording import RecordedMachine
from accel.testing import machine
from accel.values import Feature
from accel_mps import chip

PLUGIN = "accel_mps"


def mac(brand: str = "Apple M2", macos: str = "15.5", **parts: Any) -> RecordedMachine:
    commands = {"sysctl -n machdep.cpu.brand_string": brand, "sw_vers -productVersion": macos}
    standing = {
        "platform": {"system": "Darwin", "arch": "arm64", "python": "3.12.8"},
        "distributions": {"torch": "2.9.1"},
        "commands": {**commands, **parts.pop("commands", {})},
    }
    return asking.fake(**{**standing, **parts})


def test_m2_max() -> None:
    (device,) = asking.devices(PLUGIN, machine("apple-m2-max"))
    assert (device.torch_name, device.vendor, device.arch) == ("mps:0", "apple", "M2 Max")
    assert device.memory == 64 * 2**30
    assert device.memory_model == "unified"
    assert device.usable


def test_m2_max_trains_in_bfloat16_with_sdpa_and_has_no_float64() -> None:
    found = asking.capabilities(PLUGIN, machine("apple-m2-max"))
    assert asking.best(found, Feature.DTYPE) == "bfloat16"
    assert asking.best(found, Feature.ATTENTION) == "sdpa"
    assert "raises" in asking.refused(found, Feature.DTYPE, "float64")
    assert "Metal" in asking.refused(found, Feature.OP, "triton")


def test_the_only_collective_is_of_the_host_and_says_so() -> None:
    found = asking.capabilities(PLUGIN, machine("apple-m2-max"))
    decision = found.require(Feature.COLLECTIVE, "gloo")
    assert [d.name for d in found.of(Feature.COLLECTIVE)] == ["gloo"]
    assert decision.impl.limits["refuses_devices"] == ["mps"]
    assert "host tensors only" in decision.reason


@pytest.mark.parametrize(
    ("brand", "macos", "dtype", "reason"),
    [
        ("Apple M1 Pro", "15.5", "float32", "emulated on the M1"),
        ("Apple M2 Ultra", "13.6.1", "float32", "from macOS 14"),
        ("Apple M4 Max", "14.0", "bfloat16", ""),
        ("Apple M9", "30.1", "bfloat16", ""),
        ("VirtualApple @ 2.50GHz", "15.5", "float32", "emulated"),
    ],
)
def test_bfloat16_by_chip_and_system(brand: str, macos: str, dtype: str, reason: str) -> None:
    found = asking.capabilities(PLUGIN, mac(brand, macos))
    assert asking.best(found, Feature.DTYPE) == dtype
    if reason:
        assert reason in asking.refused(found, Feature.DTYPE, "bfloat16")
    probed = {
        decision.impl.probe.arguments["dtype"]
        for decision in found.of(Feature.ATTENTION)
        if decision.impl.probe
    }
    assert probed == {dtype}


def test_float8_is_storage_from_torch_2_15() -> None:
    new = mac(distributions={"torch": "2.15.0"})
    assert asking.capabilities(PLUGIN, new).supports(Feature.DTYPE, "float8_e4m3fn")
    found = asking.capabilities(PLUGIN, mac())
    assert "torch>=2.15" in asking.refused(found, Feature.DTYPE, "float8_e4m3fn")


@pytest.mark.parametrize(
    ("here", "problem", "remedy"),
    [
        (mac(distributions={}), "torch is not installed", "pip install --upgrade torch"),
        (mac(distributions={"torch": "2.2.2"}), "torch>=2.5", "pip install --upgrade torch"),
        (
            mac(macos="14.7", distributions={"torch": "2.15.0"}),
            "torch 2.15.0 needs macOS 15; this is macOS 14.7",
            "pip install 'torch<2.15'",
        ),
        (
            mac(
                brand="VirtualApple @ 2.50GHz",
                platform={"system": "Darwin", "arch": "x86_64", "python": "3.11.9"},
                commands={"sysctl -n sysctl.proc_translated": "1\n"},
            ),
            "under Rosetta",
            "arch -arm64",
        ),
    ],
)
def test_problem_and_remedy(here: RecordedMachine, problem: str, remedy: str) -> None:
    (device,) = asking.devices(PLUGIN, here)
    assert problem in (device.problem or "")
    assert remedy in (device.remedy or "")


def test_an_intel_mac_has_no_device() -> None:
    here = mac(
        brand="Intel(R) Core(TM) i9",
        platform={"system": "Darwin", "arch": "x86_64", "python": "3.11.9"},
        commands={"sysctl -n sysctl.proc_translated": "0\n"},
    )
    assert asking.devices(PLUGIN, here) == []


@pytest.mark.parametrize("name", ["cambricon-mlu370", "moore-s4000", "intel-arc-b60"])
def test_a_linux_machine_has_no_device(name: str) -> None:
    assert asking.devices(PLUGIN, machine(name)) == []


def test_facts() -> None:
    asking.check_facts(PLUGIN)


def test_no_torch() -> None:
    asking.imports_no_torch(PLUGIN, "apple-m2-max")


@pytest.mark.parametrize(
    ("brand", "name"),
    [
        ("Apple M1", "M1"),
        ("Apple M2 Max\n", "M2 Max"),
        ("Apple M10 Ultra", "M10 Ultra"),
        ("", "Apple silicon"),
        ("Apple M2 Tiny", "Apple silicon"),
    ],
)
def test_chip(brand: str, name: str) -> None:
    assert chip(brand) == name


@given(st.text())
def test_any_brand_is_a_chip(brand: str) -> None:
    assert chip(brand) == "Apple silicon" or chip(brand).startswith("M")
