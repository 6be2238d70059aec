"""accel_xpu on recorded and on odd machines: what is an accelerator, and what only a display."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asking
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.recording import RecordedMachine
from accel.testing import machine
from accel.values import Feature
from accel_xpu import DISCRETE, INTEGRATED

PLUGIN = "accel_xpu"
XPU_TORCH = {"torch": "2.11.0+xpu", "triton-xpu": "3.7.0"}


def gpu(device: str, bus: int = 3, driver: str | None = "xe") -> Mapping[str, Any]:
    return asking.card("8086", device, address=f"0000:{bus:02x}:00.0", driver=driver)


def box(*cards: Mapping[str, Any], **parts: Any) -> RecordedMachine:
    standing = {"paths": ["/dev/dri/renderD128"], "distributions": XPU_TORCH}
    return asking.fake(**{**standing, "pci": list(cards), **parts})


def test_arc_b60_is_found_and_the_processors_own_graphics_are_not() -> None:
    here = machine("intel-arc-b60")
    assert {card.device for card in here.pci_of("8086")} == {"7d67", "e211"}
    (device,) = asking.devices(PLUGIN, here)
    assert (device.torch_name, device.name, device.arch) == ("xpu:0", "Intel Arc Pro B60", "bmg")
    assert device.memory == 24 * 2**30
    assert device.toolkit == "20250302"
    assert device.usable


def test_arc_b60_trains_in_bfloat16_over_xccl() -> None:
    found = asking.capabilities(PLUGIN, machine("intel-arc-b60"))
    assert asking.best(found, Feature.DTYPE) == "bfloat16"
    assert asking.best(found, Feature.ATTENTION) == "sdpa"
    assert asking.best(found, Feature.COLLECTIVE) == "xccl"
    assert found.supports(Feature.OP, "triton")
    assert "FP8" in asking.refused(found, Feature.DTYPE, "float8_e4m3fn")
    assert "kernels-community" in asking.refused(found, Feature.ATTENTION, "flash_attention_2")


def test_xccl_is_built_in_from_torch_2_8() -> None:
    old = box(gpu("56a0"), distributions={"torch": "2.7.1+xpu"})
    found = asking.capabilities(PLUGIN, old)
    assert "torch>=2.8" in asking.refused(found, Feature.COLLECTIVE, "xccl")
    assert "triton-xpu" in asking.refused(found, Feature.OP, "triton")


@pytest.mark.parametrize("device", ["4680", "46a6", "3e98", "9a49", "7d67", "7d45", "1234"])
def test_graphics_that_torch_has_no_support_for_are_no_device(device: str) -> None:
    assert asking.devices(PLUGIN, box(gpu(device, bus=0, driver="i915"))) == []


def test_integrated_arc_graphics_rank_below_every_card_and_above_the_host() -> None:
    (device,) = asking.devices(PLUGIN, box(gpu("64a0", bus=0)))
    assert device.priority == INTEGRATED
    assert 0 < INTEGRATED < DISCRETE
    assert device.memory_model == "unified"
    assert device.memory == 64 * 2**30
    assert device.usable


def test_beside_a_card_integrated_graphics_are_left_out_as_torch_does() -> None:
    found = asking.devices(PLUGIN, box(gpu("64a0", bus=0), gpu("e20b")))
    assert [device.name for device in found] == ["Intel Arc B580"]


def test_not_every_function_with_a_known_id_is_a_gpu() -> None:
    audio = asking.card("8086", "e20b", class_id="040300")
    other = asking.card("10de", "e20b")
    assert asking.devices(PLUGIN, box(audio, other)) == []


@pytest.mark.parametrize(
    ("variables", "tiles"),
    [
        ({}, [0, 1, 0, 1]),
        ({"ZE_FLAT_DEVICE_HIERARCHY": "FLAT"}, [0, 1, 0, 1]),
        ({"ZE_FLAT_DEVICE_HIERARCHY": "composite"}, [None, None]),
        ({"ZE_AFFINITY_MASK": "3,0"}, [0, 1]),
        ({"ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE", "ZE_AFFINITY_MASK": "1.0,1.1"}, [None]),
        ({"ZE_AFFINITY_MASK": ""}, [0, 1, 0, 1]),
    ],
)
def test_tiles_of_two_data_center_cards(variables: dict[str, str], tiles: list[int | None]) -> None:
    here = box(gpu("0bd5"), gpu("0bd5", bus=4), env=variables)
    found = asking.devices(PLUGIN, here)
    assert [device.attributes.get("tile") for device in found] == tiles
    assert [device.index for device in found] == list(range(len(tiles)))
    assert all(device.arch == "pvc" for device in found)


def test_a_mask_that_hides_every_gpu_is_said() -> None:
    (device,) = asking.devices(PLUGIN, box(gpu("e20b"), env={"ZE_AFFINITY_MASK": "9"}))
    assert device.remedy == "unset ZE_AFFINITY_MASK"


def test_a_mask_selects_and_does_not_reorder() -> None:
    cards = [gpu("e20b"), gpu("56a0", bus=4)]
    turned = asking.devices(PLUGIN, box(*cards, env={"ZE_AFFINITY_MASK": "1,0"}))
    assert [device.arch for device in turned] == ["bmg", "dg2"]


def test_memory_of_tiles_is_what_the_driver_says_of_them() -> None:
    folder = "/sys/bus/pci/devices/0000:03:00.0"
    files = {f"{folder}/tile{n}/physical_vram_size_bytes": f"{2**36}\n" for n in range(2)}
    found = asking.devices(PLUGIN, box(gpu("0bd5"), files=files))
    assert [device.memory for device in found] == [2**36, 2**36]
    i915 = {f"{folder}/drm/card1/lmem_total_bytes": "0x400000000\n"}
    assert asking.devices(PLUGIN, box(gpu("56a0"), files=i915))[0].memory == 2**34
    assert asking.devices(PLUGIN, box(gpu("56a0")))[0].memory is None


@given(st.text())
def test_any_text_in_the_memory_file(text: str) -> None:
    path = "/sys/bus/pci/devices/0000:03:00.0/tile0/physical_vram_size_bytes"
    (device,) = asking.devices(PLUGIN, box(gpu("e20b"), files={path: text}))
    assert device.memory is None or device.memory >= 0


@given(st.text(alphabet="0123456789.,- x"))
def test_any_mask_shows_some_of_the_devices_in_order(mask: str) -> None:
    here = box(*(gpu("e20b", bus) for bus in range(1, 5)), env={"ZE_AFFINITY_MASK": mask})
    addresses = [device.pci_address or "" for device in asking.devices(PLUGIN, here)]
    assert addresses == sorted(set(addresses))


@pytest.mark.parametrize(
    ("driver", "parts", "problem", "remedy"),
    [
        (None, {}, "neither xe nor i915", "modprobe xe"),
        ("vfio-pci", {}, "vfio-pci does", "modprobe xe"),
        ("xe", {"paths": []}, "renderD", "--device /dev/dri"),
        ("xe", {"distributions": {}}, "torch is not installed", "--torch-backend=xpu"),
        ("xe", {"distributions": {"torch": "2.4.0+xpu"}}, "torch>=2.5", "--torch-backend=xpu"),
        (
            "i915",
            {"distributions": {"torch": "2.11.0+cu130"}},
            "torch 2.11.0+cu130 is not built for XPU",
            "--torch-backend=xpu",
        ),
    ],
)
def test_problem_and_remedy(
    driver: str | None, parts: dict[str, Any], problem: str, remedy: str
) -> None:
    (device,) = asking.devices(PLUGIN, box(gpu("e20b", driver=driver), **parts))
    assert problem in (device.problem or "")
    assert remedy in (device.remedy or "")


@pytest.mark.parametrize("name", ["cambricon-mlu370", "moore-s4000", "apple-m2-max"])
def test_other_vendors_cards_are_not_claimed(name: str) -> None:
    assert asking.devices(PLUGIN, machine(name)) == []


def test_facts() -> None:
    facts = asking.check_facts(PLUGIN)
    for device, row in facts.extra["pci"].items():
        assert len(device) == 4
        arch = facts.archs[row["arch"]]
        unified = arch.extra["memory_model"] == "unified"
        assert unified is row.get("integrated", False)


def test_no_torch() -> None:
    asking.imports_no_torch(PLUGIN, "intel-arc-b60")
