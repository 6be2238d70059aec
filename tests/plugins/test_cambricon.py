"""accel_cambricon on recorded machines, and on machines where something is amiss."""

from __future__ import annotations

import dataclasses

import asking
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.testing import machine
from accel.values import Feature
from accel_cambricon import accel_patches, parse_cnmon, parse_information

PLUGIN = "accel_cambricon"
GIB = 2**30


def test_mlu370() -> None:
    found = asking.devices(PLUGIN, machine("cambricon-mlu370"))
    assert [(d.torch_name, d.name, d.arch) for d in found] == [
        ("mlu:0", "MLU370-X8", "mlu370"),
        ("mlu:1", "MLU370-X8", "mlu370"),
    ]
    assert found[0].driver == "5.10.22"
    assert found[0].memory == 20638 * 2**20
    assert found[0].usable


def test_mlu590() -> None:
    found = asking.devices(PLUGIN, machine("cambricon-mlu590"))
    assert [d.index for d in found] == list(range(8))
    assert {(d.name, d.arch, d.memory) for d in found} == {("MLU590-M9", "mlu590", 96 * GIB)}
    assert found[7].pci_address == "0000:d3:00.0"


def test_mlu370_trains_in_float16_because_torch_mlu_refuses_bfloat16() -> None:
    found = asking.capabilities(PLUGIN, machine("cambricon-mlu370"))
    assert asking.best(found, Feature.DTYPE) == "float16"
    assert "5xx series" in asking.refused(found, Feature.DTYPE, "bfloat16")
    assert "MLU590" in asking.refused(found, Feature.DTYPE, "tf32")


def test_mlu590_trains_in_bfloat16_with_sdpa_over_cncl() -> None:
    found = asking.capabilities(PLUGIN, machine("cambricon-mlu590"))
    assert asking.best(found, Feature.DTYPE) == "bfloat16"
    assert asking.best(found, Feature.ATTENTION) == "sdpa"
    assert asking.best(found, Feature.COLLECTIVE) == "cncl"
    assert "flash-attn" in asking.refused(found, Feature.ATTENTION, "flash_attention_2")
    assert found.supports(Feature.OP, "triton")
    limits = found.require(Feature.COLLECTIVE, "cncl").impl.limits
    assert limits["refuses_dtypes"] == ["float64"]
    assert "AVG" in limits["missing_ops"]


def test_the_vendors_flash_attn_is_taken_when_it_is_there() -> None:
    here = machine("cambricon-mlu590")
    with_it = {**here.distributions(), "flash-attn": "2.5.6"}
    found = asking.capabilities(PLUGIN, asking.changed(here, distributions=with_it))
    assert asking.best(found, Feature.ATTENTION) == "flash_attention_2"


def test_upstream_triton_is_not_the_vendors() -> None:
    here = machine("cambricon-mlu590")
    other = asking.changed(here, distributions={**here.distributions(), "triton": "3.6.0"})
    found = asking.capabilities(PLUGIN, other)
    assert "3.6.0 is not Cambricon's" in asking.refused(found, Feature.OP, "triton")


@pytest.mark.parametrize(
    ("setting", "addresses"),
    [("7", ["0000:d3:00.0"]), ("2,0", ["0000:6f:00.0", "0000:4f:00.0"]), ("1,9", ["0000:53:00.0"])],
)
def test_visible_devices_are_renumbered(setting: str, addresses: list[str]) -> None:
    here = asking.changed(machine("cambricon-mlu590"), env={"MLU_VISIBLE_DEVICES": setting})
    found = asking.devices(PLUGIN, here)
    assert [d.pci_address for d in found] == addresses
    assert [d.index for d in found] == list(range(len(addresses)))


@pytest.mark.parametrize("setting", ["", "9", "0,0"])
def test_a_setting_that_hides_every_card_is_said(setting: str) -> None:
    here = asking.changed(machine("cambricon-mlu590"), env={"MLU_VISIBLE_DEVICES": setting})
    found = asking.devices(PLUGIN, here)
    assert len(found) == 8
    assert {device.remedy for device in found} == {"unset MLU_VISIBLE_DEVICES"}


def test_a_container_with_two_nodes_has_two_devices() -> None:
    nodes = ["/dev/cambricon_ctl", "/dev/cambricon_dev2", "/dev/cambricon_dev5"]
    here = asking.changed(
        machine("cambricon-mlu590"), paths=nodes, env={"LD_LIBRARY_PATH": "/opt/neuware/lib64"}
    )
    found = asking.devices(PLUGIN, here)
    assert [d.pci_address for d in found] == ["0000:6f:00.0", "0000:b3:00.0"]
    assert all(d.usable for d in found)


def test_nodes_decide_the_order_and_not_pci_addresses() -> None:
    here = machine("cambricon-mlu370")
    first, second = sorted(path for path in here._document["files"])
    files = here._document["files"]
    turned = asking.changed(here, files={first: files[second], second: files[first]})
    assert [d.pci_address for d in asking.devices(PLUGIN, turned)] == [
        "0000:16:00.0",
        "0000:13:00.0",
    ]


@pytest.mark.parametrize(
    ("parts", "problem", "remedy"),
    [
        (
            {"distributions": {"torch": "2.7.1"}},
            "torch_mlu is not installed",
            "torch_mlu-*+torch2.7.1",
        ),
        (
            {"distributions": {"torch": "2.8.0", "torch-mlu": "1.29.2+torch2.7.1"}},
            "is for torch 2.7.1; torch 2.8.0 is installed",
            "torch_mlu-*+torch2.8.0",
        ),
        (
            {"env": {}, "paths": ["/dev/cambricon_dev0", "/dev/cambricon_dev1"]},
            "NEUWARE_HOME is not set",
            "export NEUWARE_HOME=",
        ),
        (
            {"env": {"NEUWARE_HOME": "/opt/gone"}},
            "NEUWARE_HOME is /opt/gone, which is not there",
            "export NEUWARE_HOME=",
        ),
        ({"paths": []}, "not in this container", "--device /dev/cambricon_ctl"),
        (
            {
                "paths": [],
                "files": {},
                "commands": {},
                "pci": [dict(asking.card("cabc", "0370", class_id="120000"))],
            },
            "driver is not loaded",
            "modprobe cambricon_drv",
        ),
    ],
)
def test_problem_and_remedy(parts: dict[str, object], problem: str, remedy: str) -> None:
    found = asking.devices(PLUGIN, asking.changed(machine("cambricon-mlu370"), **parts))
    assert found
    for device in found:
        assert problem in (device.problem or "")
        assert remedy in (device.remedy or "")
        assert device.arch == "mlu370"


def test_an_mlu_without_facts_gets_only_what_can_be_proven() -> None:
    here = asking.fake(pci=[asking.card("cabc", "0580", class_id="120000")])
    found = asking.capabilities(PLUGIN, here)
    assert found.device.arch == "mlu580"
    assert found.find(Feature.DTYPE, "bfloat16") is None
    assert asking.best(found, Feature.DTYPE) == "float32"


@pytest.mark.parametrize("name", ["moore-s4000", "intel-arc-b60", "apple-m2-max"])
def test_other_vendors_cards_are_not_claimed(name: str) -> None:
    assert asking.devices(PLUGIN, machine(name)) == []


def test_a_network_function_of_the_vendor_is_no_device() -> None:
    assert (
        asking.devices(PLUGIN, asking.fake(pci=[asking.card("cabc", "0370", class_id="020000")]))
        == []
    )


def test_the_patch_is_for_its_own_devices_only() -> None:
    device = asking.devices(PLUGIN, machine("cambricon-mlu590"))[0]
    (patch,) = accel_patches(device=device, machine=machine("cambricon-mlu590"))
    assert patch.environ == {"PYTORCH_CNDEV_BASED_MLU_CHECK": "1"}
    other = dataclasses.replace(device, vendor="another")
    assert not list(accel_patches(device=other, machine=machine("cambricon-mlu590")))


def test_facts() -> None:
    facts = asking.check_facts(PLUGIN)
    assert {"mlu370", "mlu590", "other"} <= set(facts.archs)
    assert facts.archs["mlu590"].extra["memory_model"] == "discrete"


def test_no_torch() -> None:
    asking.imports_no_torch(PLUGIN, "cambricon-mlu590")


@given(st.text())
def test_parsers_take_any_text(text: str) -> None:
    assert all(size >= 0 for size in parse_cnmon(text).values())
    assert isinstance(parse_information(text), dict)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 10**6)), unique_by=lambda x: x[0]))
def test_cnmon_gives_each_card_its_own_memory(cards: list[tuple[int, int]]) -> None:
    lines = [
        f"| {i}     /   MLU999-X1    v1.0.0 |         0000:{bus:02X}:00.0 | 0%             0 |\n"
        f"|  0%   28C        107 W/ 250 W |     1 MiB/ {size} MiB | FULL          Default |\n"
        for i, (bus, size) in enumerate(cards)
    ]
    expected = {f"0000:{bus:02x}:00.0": size * 2**20 for bus, size in cards}
    assert parse_cnmon("".join(lines)) == expected
