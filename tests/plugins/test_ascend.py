"""Ascend NPUs: which chip it really is, which of them a process sees, and what is missing."""

from __future__ import annotations

import pytest
from asking import (
    best,
    capabilities,
    card,
    changed,
    check_facts,
    devices,
    fake,
    imports_no_torch,
    refused,
)
from hypothesis import given
from hypothesis import strategies as st

from accel.facts import load_facts
from accel.recording import RecordedMachine
from accel.testing import machine
from accel.values import Feature
from accel_ascend import architecture
from accel_ascend.npu_smi import chips

PLUGIN = "accel_ascend"
GIB = 2**30
FACTS = load_facts(PLUGIN)
BOX = "ascend-910b2-x8"


def env(here: RecordedMachine, **variables: str) -> RecordedMachine:
    return changed(here, env={**here._document["env"], **variables})


@pytest.mark.parametrize(
    ("name", "count", "arch", "family", "dtype", "memory"),
    [
        (BOX, 8, "Ascend910B2", "910b", "bfloat16", 64 * GIB),
        ("ascend-310p3", 2, "Ascend310P3", "310p", "float16", 44280 * 2**20),
        ("ascend-910a", 8, "Ascend910ProB", "910a", "float16", 32 * GIB),
        ("ascend-910c-x16", 16, "Ascend910_9392", "910_93", "bfloat16", 64 * GIB),
        ("ascend-950pr", 3, "Ascend950PR", "950", "bfloat16", 128 * GIB),
    ],
)
def test_recorded_machines(
    name: str, count: int, arch: str, family: str, dtype: str, memory: int
) -> None:
    found = devices(PLUGIN, machine(name))
    assert [d.torch_name for d in found] == [f"npu:{index}" for index in range(count)]
    assert {(d.vendor, d.arch, d.family, d.problem) for d in found} == {
        ("ascend", arch, family, None)
    }
    assert found[0].memory == memory
    assert found[0].driver
    assert found[0].toolkit
    decided = capabilities(PLUGIN, machine(name))
    assert best(decided, Feature.DTYPE) == dtype
    assert best(decided, Feature.ATTENTION) == "sdpa"
    assert best(decided, Feature.COLLECTIVE) == "hccl"


def test_the_reading_of_the_910b2_is_kept() -> None:
    first = devices(PLUGIN, machine(BOX))[0]
    assert (first.driver, first.toolkit, first.pci_address) == ("25.5.1", "8.5.0", "0000:c1:00.0")
    assert first.attributes["health"] == "OK"


def test_two_chips_of_one_card_are_two_devices() -> None:
    found = devices(PLUGIN, machine("ascend-310p3"))
    assert {d.pci_address for d in found} == {"0000:81:00.0"}
    assert [d.memory for d in found] == [44280 * 2**20, 43693 * 2**20]
    assert all(d.priority < devices(PLUGIN, machine(BOX))[0].priority for d in found)


@pytest.mark.parametrize("name", ["ascend-310p3", "ascend-910a"])
def test_no_bfloat16_and_no_fused_attention_before_910b(name: str) -> None:
    found = capabilities(PLUGIN, machine(name))
    assert "no bfloat16" in refused(found, Feature.DTYPE, "bfloat16")
    assert "npu_fusion_attention" in refused(found, Feature.ATTENTION, "flash_attention_2")
    assert refused(found, Feature.OP, "triton")


def test_fused_attention_of_910b_comes_through_transformers() -> None:
    decision = capabilities(PLUGIN, machine(BOX)).require(Feature.ATTENTION, "flash_attention_2")
    assert "npu_fusion_attention" in decision.reason
    assert not any(text.startswith("flash-attn") for text in decision.impl.requires)


@pytest.mark.parametrize(("name", "refuses"), [(BOX, True), ("ascend-950pr", False)])
def test_hccl_says_what_it_will_not_reduce(name: str, refuses: bool) -> None:
    limits = capabilities(PLUGIN, machine(name)).require(Feature.COLLECTIVE, "hccl").impl.limits
    assert {"uint8", "bool"} <= set(limits["refuses_dtypes"])
    assert ("float64" in limits["refuses_dtypes"]) is refuses
    assert "gather" in limits["missing_ops"]


@pytest.mark.parametrize(
    ("name", "pci", "arch", "family"),
    [
        ("910B2", "d802", "Ascend910B2", "910b"),
        ("910B4-1", "d802", "Ascend910B4-1", "910b"),
        ("910B", "d801", "Ascend910B", "910a"),  # the old one, by its own name
        ("910B", None, "Ascend910B", "910a"),
        ("910B", "d802", "dav-2201", "910b"),  # a new one, whose name was cut short
        ("Ascend 910B", "d801", "Ascend910B", "910a"),
        ("", "d802", "dav-2201", "910b"),
        ("", "d803", "dav-2201", "910_93"),
        ("Ascend910", "d803", "dav-2201", "910_93"),
        ("910B5", "d802", "Ascend910B5", "910b"),  # a name to come
        ("310B4", None, "Ascend310B4", "unknown"),
        ("", None, "unknown", "unknown"),
    ],
)
def test_the_name_trap(name: str, pci: str | None, arch: str, family: str) -> None:
    assert architecture(name, pci, FACTS) == (arch, family)


def test_what_is_not_known_is_not_promised() -> None:
    bare = changed(machine(BOX), commands={}, pci=[])
    found = devices(PLUGIN, bare)
    assert [d.arch for d in found] == ["unknown"] * 8
    assert "not known" in refused(capabilities(PLUGIN, bare), Feature.DTYPE, "bfloat16")


def test_without_npu_smi_the_pci_id_tells_the_generation() -> None:
    found = devices(PLUGIN, changed(machine(BOX), commands={}))
    assert {(d.arch, d.family, d.problem) for d in found} == {("dav-2201", "910b", None)}
    assert (
        best(capabilities(PLUGIN, changed(machine(BOX), commands={})), Feature.DTYPE) == "bfloat16"
    )


def test_a_container_given_two_chips_has_two() -> None:
    paths = ["/dev/davinci3", "/dev/davinci6", "/dev/davinci_manager"]
    found = devices(PLUGIN, changed(machine(BOX), paths=paths))
    assert [(d.index, d.attributes["physical_id"]) for d in found] == [(0, 3), (1, 6)]
    assert [d.pci_address for d in found] == ["0000:02:00.0", "0000:82:00.0"]


@given(st.lists(st.integers(0, 15), unique=True, max_size=8))
def test_visible_devices_are_logical_ids_in_the_order_given(chosen: list[int]) -> None:
    text = ",".join(map(str, chosen))
    found = devices(PLUGIN, env(machine(BOX), ASCEND_RT_VISIBLE_DEVICES=text))
    valid = chosen[: next((i for i, n in enumerate(chosen) if n > 7), len(chosen))]
    assert [d.attributes["logical_id"] for d in found] == (valid or list(range(8)))
    assert [d.index for d in found] == list(range(len(valid or range(8))))
    for one in found:
        assert ("hidden by ASCEND_RT_VISIBLE_DEVICES" in (one.problem or "")) is not bool(valid)


@given(st.text(max_size=30))
def test_no_setting_of_visible_devices_breaks_detection(text: str) -> None:
    found = devices(PLUGIN, env(machine(BOX), ASCEND_RT_VISIBLE_DEVICES=text))
    assert len({d.attributes["physical_id"] for d in found}) == len(found) <= 8


@given(st.text(alphabet="|+-= 0123456789/:ABNPUChipDevusIdPy\n", max_size=400))
def test_no_table_breaks_the_reader(text: str) -> None:
    assert len(chips(text)) <= text.count("\n") + 1


def test_processes_in_the_table_are_no_chips() -> None:
    table = machine("ascend-950pr").command(["npu-smi", "info"]) or ""
    process = (
        "| 0                         | 1648703       | python         | 316                |\n"
    )
    assert chips(table + process * 2) == chips(table)
    assert len(chips(table)) == 3


def test_the_same_vendor_s_other_cards_are_left_alone() -> None:
    assert devices(PLUGIN, machine("kunpeng-920")) == []
    assert devices(PLUGIN, fake(pci=[card("10de", "2330", class_id="120000")])) == []


def without(here: RecordedMachine, *names: str) -> dict[str, str]:
    return {key: value for key, value in here.distributions().items() if key not in names}


@pytest.mark.parametrize(
    ("parts", "problem", "remedy"),
    [
        ({"distributions": "torch torch-npu"}, "torch is not installed", "--torch-backend=cpu"),
        ({"distributions": "torch-npu"}, "torch-npu is not installed", "'torch-npu==2.9.0.*'"),
        ({"env": {}}, "its environment is not set", "source /usr/local/Ascend/cann/set_env.sh"),
        ({"env": {}, "files": {}}, "CANN is not found", "Ascend-cann-toolkit_"),
        ({"paths": []}, "not in this container", "docker run --device=/dev/davinci0"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(
    parts: dict[str, object], problem: str, remedy: str
) -> None:
    here = machine(BOX)
    if "distributions" in parts:
        parts = {**parts, "distributions": without(here, *str(parts["distributions"]).split())}
    if parts == {"env": {}}:  # installed at its usual place, not sourced
        text = here.read("/usr/local/Ascend/cann-8.5.0/aarch64-linux/ascend_toolkit_install.info")
        path = "/usr/local/Ascend/cann/aarch64-linux/ascend_toolkit_install.info"
        parts = {**parts, "files": {**here._document["files"], path: text}}
    found = devices(PLUGIN, changed(here, **parts))
    assert len(found) == 8
    assert problem in str(found[0].problem)
    assert remedy in str(found[0].remedy)


def test_a_torch_npu_of_another_torch_is_named() -> None:
    mixed = {**machine(BOX).distributions(), "torch": "2.8.0+cpu"}
    found = devices(PLUGIN, changed(machine(BOX), distributions=mixed))[0]
    assert found.problem == "torch-npu 2.9.0 is for torch 2.9.0; torch 2.8.0+cpu is installed"
    assert found.remedy == "pip install 'torch-npu==2.8.0.*'"


def test_a_driver_that_is_not_loaded_is_named() -> None:
    cards = [{**pci, "driver": None} for pci in machine(BOX)._document["pci"]]
    found = devices(PLUGIN, changed(machine(BOX), pci=cards, paths=[]))
    assert [d.arch for d in found] == ["dav-2201"] * 8
    assert "driver is not loaded" in str(found[0].problem)
    assert "npu-driver" in str(found[0].remedy)


def test_a_development_build_of_torch_npu_fits_its_torch() -> None:
    """A reading: torch 2.7.1+cpu beside torch_npu 2.7.1.dev20250724."""
    assert devices(PLUGIN, machine("ascend-910c-x16"))[0].usable


def test_facts() -> None:
    facts = check_facts(PLUGIN)
    families = {arch.family for arch in facts.archs.values()}
    assert families == {"310p", "910a", "910b", "910_93", "950", "unknown"}
    assert {row["family"] for row in facts.extra["pci"].values()} < families
    assert all(row["arch"] in facts.archs for row in facts.extra["pci"].values())
    assert set(facts.extra["like"].values()) <= set(facts.archs)
    assert set(facts.extra["table_sources"].values()) <= set(facts.sources)


def test_detection_imports_no_torch() -> None:
    imports_no_torch(PLUGIN, BOX)
