"""What accel decides for each recorded machine, word for word.

A change here is a change of mind: read the difference, then `pytest tests/core/test_golden.py
--update-golden` and commit it with its reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import accel
from accel import reporting, testing
from accel.errors import CapabilityUnavailable
from accel.planning import Plan
from accel.values import Decision, Feature

GOLDEN = Path(__file__).parents[1] / "golden"
MACHINES = testing.machines()


def decision(plan: Plan, feature: Feature, name: str) -> Decision:
    (found,) = (d for d in plan.of(feature) if d.name == name)
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_the_decisions_for_every_recorded_machine(
    name: str, request: pytest.FixtureRequest
) -> None:
    report = reporting.as_text(accel.plan(machine=name))
    file = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        file.write_text(report, encoding="utf-8")
    assert report == file.read_text(encoding="utf-8")


def test_there_is_no_golden_file_without_a_machine() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(MACHINES)


def test_a_gb10_has_bf16_and_sdpa_and_gptq_by_triton_only_from_3_6() -> None:
    spark = accel.plan(machine="dgx-spark")
    assert (spark.device.arch, spark.device.memory_model) == ("sm_121", "unified")
    assert (spark.attention, spark.dtype) == ("sdpa", "bfloat16")
    assert decision(spark, Feature.QUANT, "gptq_triton").accepted
    older = decision(accel.plan(machine="thinkstation-pgx"), Feature.QUANT, "gptq_triton")
    assert not older.accepted
    assert "3.5.1" in older.reason
    assert "ptxas" in older.reason


def test_a_gb10_with_a_cpu_torch_is_not_passed_over_in_silence() -> None:
    plan = accel.plan(machine="dgx-spark-cpu-torch")
    assert plan.device.kind == "cpu"
    (note,) = (n for n in plan.notes if "GB10" in n.message)
    assert "CPU-only build" in note.message
    assert note.remedy.startswith("pip install")
    with pytest.raises(accel.AccelError, match="CPU-only build"):
        accel.plan("cuda", machine="dgx-spark-cpu-torch")


def test_a_p4_computes_in_fp32_without_bf16_or_flash_attention() -> None:
    plan = accel.plan(machine="tesla-p4-x4")
    assert (plan.device.arch, plan.dtype, plan.attention) == ("sm_61", "float32", "sdpa")
    assert sum(d.kind == "cuda" for d in plan.devices) == 4
    for feature, name in (
        (Feature.DTYPE, "bfloat16"),
        (Feature.ATTENTION, "flash_attention_2"),
        (Feature.OP, "sdpa_flash"),
    ):
        assert not decision(plan, feature, name).accepted
    with pytest.raises(CapabilityUnavailable, match="sm_61"):
        accel.plan(machine="tesla-p4-x4", dtype="bf16")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("ascend-910a", "float16"),
        ("ascend-310p3", "float16"),
        ("v100", "float16"),
        ("t4", "float16"),
        ("hygon-k100ai-x8", "bfloat16"),
        ("ascend-910b2-x8", "bfloat16"),
        ("cambricon-mlu590", "bfloat16"),
    ],
)
def test_bf16_is_chosen_where_it_is_real_and_only_there(name: str, dtype: str) -> None:
    plan = accel.plan(machine=name)
    assert plan.dtype == dtype
    assert decision(plan, Feature.DTYPE, "bfloat16").accepted == (dtype == "bfloat16")


def test_a_k100_ai_is_hygon_and_not_amd() -> None:
    plan = accel.plan(machine="hygon-k100ai-x8")
    assert (plan.device.vendor, plan.device.arch) == ("hygon", "gfx928")
    assert {d.vendor for d in plan.devices} == {"hygon", "cpu"}


def test_gfx1150_is_a_name() -> None:
    plan = accel.plan(machine="strix-point")
    assert plan.device.arch == "gfx1150"
    assert "11.5" not in reporting.as_text(plan)


def test_the_four_blackwells_are_different_machines() -> None:
    archs = {name: accel.plan(machine=name).device for name in ("b200", "rtx-5090", "dgx-spark")}
    assert {d.arch for d in archs.values()} == {"sm_100", "sm_120", "sm_121"}
    assert {d.family for d in archs.values()} == {"blackwell"}
    assert len({str(d.attributes) for d in archs.values()}) == 3


def test_a_facade_that_answers_nvml_is_not_taken_for_a_gpu() -> None:
    assert [d.kind for d in accel.plan(machine="nvml-facade").devices] == ["cpu"]
