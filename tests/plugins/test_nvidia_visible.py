"""NVIDIA: which GPUs a process sees and under which number."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asking import changed
from hypothesis import given
from hypothesis import strategies as st
from test_nvidia import box, found, gpu, nvml

from accel.machine import Machine
from accel.testing import machine
from accel.values import Device
from accel_nvidia.nvml import named
from accel_nvidia.ordering import cuda_order, seen


def shown(here: Machine, **env: str) -> list[int]:
    """Physical numbers of the usable devices, in the order of torch's numbers."""
    devices = [d for _, d in found(changed(here, env=env)) if d.usable]  # type: ignore[arg-type]
    assert sorted(d.index for d in devices) == list(range(len(devices)))
    ordered = sorted(devices, key=lambda device: device.index)
    return [device.attributes["physical_index"] for device in ordered]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("0", [0]),
        ("6", [6]),
        ("3,1", [3, 1]),
        (" 2 , 5 ", [2, 5]),
        ("", []),
        ("-1", []),
        ("0,-1,2", [0]),
        ("0,8,2", [0]),
        ("0,,2", [0]),
        ("1,1", []),
        ("none", []),
        ("0x", [0]),  # CUDA reads the number it begins with: seen on an H100
        ("99999999999999999999", []),
        ("GPU-not-here", []),
    ],
)
def test_the_list_of_visible_devices(setting: str, expected: list[int]) -> None:
    assert shown(machine("a100-x8"), CUDA_VISIBLE_DEVICES=setting) == expected


def test_hidden_gpus_are_told_of_where_none_is_left() -> None:
    here = machine("a100-x8")
    hidden = [d for _, d in found(changed(here, env={"CUDA_VISIBLE_DEVICES": ""}))]
    assert len(hidden) == 8
    assert all("CUDA_VISIBLE_DEVICES" in (device.problem or "") for device in hidden)
    some = [d for _, d in found(changed(here, env={"CUDA_VISIBLE_DEVICES": "7"}))]
    assert [(d.index, d.attributes["physical_index"]) for d in some] == [(0, 7)]


entries = st.one_of(
    st.integers(-2, 9).map(str), st.sampled_from(["", "x", "GPU-1", "GPU-", "MIG-3", " 1 "])
)


@given(st.lists(entries, max_size=6), st.integers(1, 8))
def test_an_invalid_entry_ends_the_list_and_a_repeated_one_empties_it(
    parts: list[str], count: int
) -> None:
    valid = [part.strip() in {str(number) for number in range(count)} for part in parts]
    kept = parts[: valid.index(False)] if False in valid else parts
    numbers = [int(part) for part in kept]
    expected = numbers if len(set(numbers)) == len(numbers) else []
    gpus = [{"name": "same"} for _ in range(count)]
    got = seen(gpus, list(range(count)), ",".join(parts), {})
    assert [unit[0] for unit in got] == expected


@given(st.permutations(range(5)), st.lists(st.integers(0, 4), unique=True, max_size=5))
def test_numbers_count_in_cudas_order(order: list[int], wanted: list[int]) -> None:
    gpus = [{"name": "same"} for _ in range(5)]
    setting = ",".join(map(str, wanted)) if wanted else "none"
    got = seen(gpus, order, setting, {})
    assert [unit[0] for unit in got] == [order[number] for number in wanted]


@given(st.text(max_size=30))
def test_no_setting_breaks_detection(setting: str) -> None:
    numbers = shown(box(gpu(0), gpu(1)), CUDA_VISIBLE_DEVICES=setting)
    assert set(numbers) <= {0, 1}


def test_a_uuid_is_resolved_where_nvml_is_asked_and_not_kept() -> None:
    uuids = {"GPU-aa11": (0, None), "GPU-aa22": (1, None), "MIG-bb": (1, 0)}
    assert named("GPU-aa2", uuids) == {"0": [1, None]}
    assert named("GPU-aa", uuids) == {}  # the start of two
    assert named("0,GPU-aa11, MIG-b", uuids) == {"1": [0, None], "2": [1, 0]}
    assert named("", uuids) == {}
    here = box(gpu(0), gpu(1), queries=nvml(gpu(0), gpu(1), named={"0": [1, None]}))
    assert shown(here, CUDA_VISIBLE_DEVICES="GPU-<removed>") == [1]
    assert shown(here, CUDA_VISIBLE_DEVICES="GPU-<removed>,0") == [1, 0]
    assert shown(here, CUDA_VISIBLE_DEVICES="GPU-<removed>,1") == []


# order ---------------------------------------------------------------------------------------


def mixed() -> Any:
    return box(gpu(0, "7.5", name="slow", speed=10), gpu(1, "8.9", name="fast", speed=90))


def test_a_mixed_box_is_ordered_by_speed_unless_told_otherwise() -> None:
    assert shown(mixed()) == [1, 0]
    assert shown(mixed(), CUDA_DEVICE_ORDER="PCI_BUS_ID") == [0, 1]
    assert shown(mixed(), CUDA_VISIBLE_DEVICES="0") == [1]
    assert shown(mixed(), CUDA_VISIBLE_DEVICES="0", CUDA_DEVICE_ORDER="PCI_BUS_ID") == [0]


def test_an_estimated_order_says_so() -> None:
    def remarks(**env: str) -> set[bool]:
        return {"index_is" in d.attributes for _, d in found(changed(mixed(), env=env))}

    assert remarks() == {True}
    assert remarks(CUDA_DEVICE_ORDER="PCI_BUS_ID") == {False}


def test_gpus_of_one_name_stay_in_the_order_of_addresses() -> None:
    same = [{"name": "same", "speed": 1}, {"name": "same", "speed": 9}]
    assert cuda_order(same, None) == ([0, 1], True)


# MIG -----------------------------------------------------------------------------------------


def first(here: Machine, **env: str) -> Device:
    return next(d for _, d in found(changed(here, env=env)) if d.index == 0)  # type: ignore[arg-type]


def test_a_mig_instance_is_seen_alone() -> None:
    device = first(machine("h100-mig"))
    assert device.name == "NVIDIA H100 80GB HBM3 MIG 1g.20gb"
    assert device.memory == 20096 * 2**20
    mig = device.attributes["mig"]
    assert (mig["profile"], mig["gpu_instance"], mig["compute_instance"]) == ("1g.20gb", 6, 0)


@pytest.mark.parametrize(
    ("setting", "physical", "profile"),
    [
        ("1,2", [1, 2], None),
        ("3", [3], "1c.3g.40gb"),
        ("1,0", [0], "1g.20gb"),  # no whole GPU beside an instance
        ("7,6", [7, 6], None),
    ],
)
def test_whole_gpus_and_instances_exclude_each_other(
    setting: str, physical: list[int], profile: str | None
) -> None:
    here = machine("h100-mig")
    assert shown(here, CUDA_VISIBLE_DEVICES=setting) == physical
    mig = first(here, CUDA_VISIBLE_DEVICES=setting).attributes["mig"]
    assert (mig["profile"] if profile else mig) == (profile or False)


def test_a_mig_instance_named_by_its_uuid() -> None:
    here = machine("h100-mig")
    queries = json.loads(json.dumps(here._document["queries"]))
    queries["nvml"]["value"]["named"] = {"0": [3, 1], "1": [0, 0]}
    device = first(changed(here, queries=queries), CUDA_VISIBLE_DEVICES="MIG-a,MIG-b")
    assert (device.attributes["physical_index"], device.attributes["mig"]["compute_instance"]) == (
        3,
        1,
    )


def test_mig_mode_without_an_instance_is_a_problem() -> None:
    [(_, device)] = found(box(gpu(0, mig=True)))
    assert "without an instance" in (device.problem or "")
    assert "nvidia-smi mig" in (device.remedy or "")
