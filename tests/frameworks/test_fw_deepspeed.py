"""DeepSpeed configurations rewritten for invented devices, LLaMA-Factory's among them."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.errors import CapabilityUnavailable
from accel.values import Feature, Level
from accel_frameworks import deepspeed
from accel_frameworks.deepspeed import rewritten
from fw_support import needs

NO_BF16 = {(Feature.DTYPE, "bfloat16"): "bfloat16 is emulated here"}
OFFLOAD = {"device": "cpu", "pin_memory": True}
AUTO = {"fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"}}


def test_what_the_device_has_stays(capable):
    capabilities = capable(kind="cuda", dtype=("bfloat16", "float16", "float32"))
    config = {"bf16": {"enabled": True}, "zero_optimization": {"offload_optimizer": OFFLOAD}}
    assert rewritten(config, capabilities, compiler=True) == (config, [])
    assert rewritten(AUTO, capable(), compiler=True) == (AUTO, []), "auto is transformers' to fill"


def test_bf16_becomes_fp16_on_a_card_that_has_only_that(capable):
    capabilities = capable(kind="cuda", dtype=("float16", "float32"), lacking=NO_BF16)
    before = {"bf16": {"enabled": True}, "communication_data_type": "bfp16"}
    kept = copy.deepcopy(before)
    config, changes = rewritten(before, capabilities)
    assert before == kept, "the user's own is not touched"
    assert config == {
        "bf16": {"enabled": False},
        "fp16": {"enabled": True},
        "communication_data_type": "fp32",
    }
    assert [str(change) for change in changes] == [
        "bf16.enabled: true -> false (bfloat16 is emulated here)",
        "fp16.enabled: absent -> true (float16 instead)",
        'communication_data_type: "bfp16" -> "fp32" (the device has no bfloat16)',
    ]


def test_fp16_on_a_processor_is_off(capable):
    config, changes = rewritten({"fp16": {"enabled": True, "loss_scale": 0}}, capable())
    assert config == {"fp16": {"enabled": False, "loss_scale": 0}}
    assert [change.path for change in changes] == ["fp16.enabled"]


def test_there_is_nothing_to_offload_from_on_a_processor(capable):
    config, changes = rewritten(
        {"zero_optimization": {"stage": 3, "offload_param": OFFLOAD, "offload_optimizer": OFFLOAD}},
        capable(),
    )
    assert config == {"zero_optimization": {"stage": 3}}
    assert {change.after for change in changes} == {deepspeed.ABSENT}


def test_without_a_compiler_there_is_no_cpu_adam(capable):
    capabilities = capable(kind="cuda", dtype=("bfloat16", "float32"))
    config = {
        "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
        "zero_optimization": {"offload_optimizer": OFFLOAD},
    }
    found, changes = rewritten(config, capabilities, compiler=False)
    assert found["zero_force_ds_cpu_optimizer"] is False
    assert found["optimizer"]["params"] == {"lr": "auto", "torch_adam": True}
    assert len(changes) == 2
    assert rewritten(config, capabilities, compiler=True) == (config, [])


def test_a_compressed_optimiser_over_another_collective(capable):
    config = {"optimizer": {"type": "OneBitAdam", "params": {"lr": 1e-3, "freeze_step": 10}}}
    found, changes = rewritten(config, _with_collective(capable, "gloo"))
    assert found["optimizer"] == {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}}
    assert changes[0].reason == "it compresses what it sends through nccl or hccl only"


def _with_collective(capable, name, **limits):
    from accel.machine import ThisMachine
    from accel.resolving import Capabilities
    from accel.values import Impl

    made = capable(dtype=("bfloat16", "float32"))
    impls = [d.impl for d in made.decisions]
    own = Impl(feature=Feature.COLLECTIVE, name=name, priority=1, limits=limits)
    return Capabilities(made.device, [*impls, own], ThisMachine())


def test_a_type_that_the_collective_refuses(capable):
    capabilities = _with_collective(capable, "xccl", refuses_dtypes=["bfloat16"])
    found, (change,) = rewritten({"communication_data_type": "bf16"}, capabilities)
    assert found == {"communication_data_type": "fp32"}
    assert change.reason == "xccl refuses it"


def test_the_difference_is_a_line_and_under_strict_an_error(capable):
    capabilities = capable()
    _, changes = rewritten({"fp16": {"enabled": True}}, capabilities)
    deepspeed.tell("ds.json", changes, capabilities)
    (note,) = capabilities.notes
    assert note.level is Level.DOWNGRADE
    assert "ds.json" in note.message
    assert "fp16.enabled: true -> false" in note.message
    with pytest.raises(CapabilityUnavailable, match=r"ds\.json"):
        deepspeed.tell("ds.json", changes, capable(strict=True))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["auto", "cpu", "fp16", "AdamW"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
KEYS = ("fp16", "bf16", "zero_optimization", "optimizer", "communication_data_type", "data_types")


@given(st.dictionaries(st.sampled_from(KEYS), JSON | st.fixed_dictionaries({"enabled": JSON})))
def test_whatever_is_in_it_a_second_time_changes_nothing(config):
    from accel.machine import ThisMachine
    from accel.resolving import Capabilities
    from accel.values import Device, Impl

    device = Device(vendor="nobody", name="Test Card", kind="cpu", arch="test_1")
    impl = Impl(feature=Feature.DTYPE, name="float32", priority=1)
    capabilities = Capabilities(device, [impl], ThisMachine())
    before = copy.deepcopy(config)
    once, _ = rewritten(config, capabilities)
    assert config == before
    assert rewritten(once, capabilities) == (once, [])
    json.dumps(once)


@needs("accelerate")
def test_accelerate_gets_the_rewritten_one_and_the_file_stays(run, tmp_path):
    path = tmp_path / "ds.json"
    text = json.dumps({"fp16": {"enabled": True}, "zero_optimization": {"stage": 2}})
    path.write_text(text)
    code = """
import sys, accel
from accelerate.utils.deepspeed import HfDeepSpeedConfig
report = accel.auto()
print(HfDeepSpeedConfig("ds.json").config["fp16"], [n.subject for n in report.notes])
report.revert()
print(HfDeepSpeedConfig("ds.json").config["fp16"])
"""
    ended = run("-c", code, ACCEL_DEVICE="cpu", ACCEL_PROBE="0")
    (first, *_) = ended.stdout.splitlines()
    assert first.startswith("{'enabled': False}"), ended.stderr
    assert "'DeepSpeed configuration'" in first
    assert ended.stdout.splitlines()[-1] == "{'enabled': True}"
    assert path.read_text() == text


EXAMPLES = os.environ.get("LLAMAFACTORY_EXAMPLES", "")


@pytest.mark.skipif(not EXAMPLES, reason="LLAMAFACTORY_EXAMPLES names no folder")
def test_llamafactory_s_own_examples(capable):
    for path in sorted(Path(EXAMPLES, "deepspeed").glob("*.json")):
        config = json.loads(path.read_text())
        found, changes = rewritten(config, capable())
        assert rewritten(found, capable())[1] == [], path
        zero = config["zero_optimization"]
        offloads = bool({"offload_optimizer", "offload_param"} & set(zero))
        assert bool(changes) == offloads, (path, [str(change) for change in changes])
