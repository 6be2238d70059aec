"""accel_musa on a recorded machine, and on machines where something is amiss."""

from __future__ import annotations

import asking
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.testing import machine
from accel.values import Feature
from accel_musa import Listed, parse_overview

PLUGIN = "accel_musa"
S5000 = """
---------------------------------------------------------------------
    mthreads-gmi:2.3.3           Driver Version:3.3.8-server
---------------------------------------------------------------------
ID   Name                 |PCIe                |%GPU  Mem
     Device Type   Perf   |Pcie Lane Width     |Temp  MPC Capable
                                               |      ECC Mode
+-------------------------------------------------------------------+
0    MTT S5000            |00000000:18:00.0    |0%    0MiB(81920MiB)
     Physical      P0     |16x(16x)            |47C   YES
                                               |      On-die, EDC
+-------------------------------------------------------------------+
"""


def box(device: str, **parts: object) -> object:
    standing = {
        "pci": [asking.card("1ed5", device, class_id="030200", driver="mtgpu")],
        "paths": ["/dev/mtgpu.0"],
        "distributions": {"torch": "2.7.1", "torch-musa": "2.7.1"},
    }
    return asking.fake(**{**standing, **parts})


def test_s4000() -> None:
    (device,) = asking.devices(PLUGIN, machine("moore-s4000"))
    assert (device.torch_name, device.name, device.arch) == ("musa:0", "MTT S4000", "mp_22")
    assert device.memory == 48 * 2**30
    assert device.driver == "2.7.0"
    assert device.usable


def test_s4000_trains_in_bfloat16_over_mccl() -> None:
    found = asking.capabilities(PLUGIN, machine("moore-s4000"))
    assert asking.best(found, Feature.DTYPE) == "bfloat16"
    assert asking.best(found, Feature.ATTENTION) == "sdpa"
    assert asking.best(found, Feature.COLLECTIVE) == "mccl"
    assert "mp_31" in asking.refused(found, Feature.DTYPE, "float8_e4m3fn")


def test_s80_has_neither_bfloat16_nor_mccl() -> None:
    found = asking.capabilities(PLUGIN, box("0201"))
    assert (found.device.name, found.device.arch) == ("MTT S80", "mp_21")
    assert asking.best(found, Feature.DTYPE) == "float32"
    assert asking.best(found, Feature.ATTENTION) == "sdpa"
    assert "emulated" in asking.refused(found, Feature.DTYPE, "bfloat16")
    assert "S4000 and newer" in asking.refused(found, Feature.COLLECTIVE, "mccl")
    assert asking.best(found, Feature.COLLECTIVE) is None


def test_s5000_is_known_by_the_name_its_driver_gives() -> None:
    here = box(
        "0999",
        pci=[asking.card("1ed5", "0999", class_id="030200", address="0000:18:00.0")],
        commands={"mthreads-gmi": S5000},
    )
    found = asking.capabilities(PLUGIN, here)
    assert (found.device.name, found.device.arch) == ("MTT S5000", "mp_31")
    assert found.device.driver == "3.3.8-server"
    assert found.device.memory == 81920 * 2**20
    assert found.supports(Feature.DTYPE, "float8_e4m3fn")


def test_a_card_of_no_known_generation_gets_only_what_can_be_proven() -> None:
    found = asking.capabilities(PLUGIN, box("0106"))
    assert found.device.arch == "unknown"
    assert asking.best(found, Feature.DTYPE) == "float32"
    assert found.find(Feature.DTYPE, "bfloat16") is None


@pytest.mark.parametrize(
    ("parts", "problem", "remedy"),
    [
        ({"distributions": {"torch": "2.7.1"}}, "torch_musa is not installed", "torch_musa-2.7.1"),
        (
            {"distributions": {"torch": "2.9.0", "torch-musa": "2.7.1.post1"}},
            "is for torch 2.7.1; torch 2.9.0",
            "torch_musa-2.9.0",
        ),
        ({"paths": []}, "not in this container", "MTHREADS_VISIBLE_DEVICES"),
        (
            {"paths": [], "pci": [asking.card("1ed5", "0323")]},
            "driver is not loaded",
            "modprobe mtgpu",
        ),
    ],
)
def test_problem_and_remedy(parts: dict[str, object], problem: str, remedy: str) -> None:
    (device,) = asking.devices(PLUGIN, box("0323", **parts))
    assert problem in (device.problem or "")
    assert remedy in (device.remedy or "")


def test_numbers_of_torch_musa_before_2_7_were_its_own() -> None:
    old = {"torch": "2.5.0", "torch-musa": "2.0.0"}
    (device,) = asking.devices(PLUGIN, box("0323", distributions=old))
    assert device.usable


def test_visible_devices_and_the_cards_audio_function() -> None:
    here = machine("moore-s4000")
    assert len(here.pci()) == 2
    hidden = asking.changed(here, env={"MUSA_VISIBLE_DEVICES": ""})
    (device,) = asking.devices(PLUGIN, hidden)
    assert device.remedy == "unset MUSA_VISIBLE_DEVICES"


@pytest.mark.parametrize("name", ["cambricon-mlu370", "intel-arc-b60", "apple-m2-max"])
def test_other_vendors_cards_are_not_claimed(name: str) -> None:
    assert asking.devices(PLUGIN, machine(name)) == []


def test_facts() -> None:
    facts = asking.check_facts(PLUGIN)
    assert set(facts.extra["names"].values()) <= set(facts.archs)
    assert {row["arch"] for row in facts.extra["pci"].values()} <= set(facts.archs)


def test_no_torch() -> None:
    asking.imports_no_torch(PLUGIN, "moore-s4000")


def test_an_overview_with_a_driver_that_does_not_answer() -> None:
    assert parse_overview("mthreads-gmi:1.6.0           Driver Version:N/A\n") == ({}, None)


@given(st.text())
def test_the_parser_takes_any_text(text: str) -> None:
    rows, driver = parse_overview(text)
    assert all(row.memory >= 0 for row in rows.values())
    assert driver is None or driver


@given(st.integers(0, 0xFFFF), st.integers(0, 255), st.integers(1, 10**6))
def test_a_row_by_its_address(domain: int, bus: int, size: int) -> None:
    line = f"3    MTT S4000      |{domain:08X}:{bus:02X}:00.0    |0%    4MiB({size}MiB)\n"
    rows, _ = parse_overview(line)
    assert rows == {f"{domain:04x}:{bus:02x}:00.0": Listed("MTT S4000", size * 2**20)}
