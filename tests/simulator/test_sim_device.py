"""The simulated device in torch: what a program may do with a device, it may do with this one."""

from __future__ import annotations

import pytest

from accel.errors import InputError
from accel_simulator import command
from sim_support import HERE, environment, needs_compiler, outcomes

pytestmark = [needs_compiler, pytest.mark.slow]

CHECKS = (
    "trains_as_the_host_does",
    "multiplies_beside_triton",
    "sums_products_of_float16_in_float32",
    "knows_its_place",
    "refuses_tensors_of_another_device",
    "views_share_and_results_do_not",
    "memory_is_counted",
    "memory_ends",
    "memory_ends_inside_an_operator",
    "random_numbers",
    "recurrent_layers",
    "parameters_stay_when_a_model_moves",
    "streams_and_events",
    "serialisation",
    "autocast_and_scaler",
    "pinned_memory_and_workers",
    "attention",
    "collectives_of_one_rank",
    "checkpointing_and_threads",
)
SCRIPT = str(HERE / "device_checks.py")


def test_a_program_that_ends_at_once_ends_well(simulate):
    """torch's threads for the device had not let go of its tensors, which aborted it."""
    source = "import torch; torch.ones(2, device='npu', requires_grad=True).sum().backward()"
    ends = [simulate("ascend-910b2", "python", "-c", source) for _ in range(3)]
    assert [ended.returncode for ended in ends] == [0, 0, 0], ends[-1].stderr


@pytest.mark.parametrize("machine", ["ascend-910b2", "tesla-p4", "mlu590", "intel-arc-b60"])
def test_a_simulated_device_does_what_a_device_does(simulate, machine):
    ended = simulate(machine, "python", "-W", "error", SCRIPT, *CHECKS)
    assert outcomes(ended) == dict.fromkeys(CHECKS, "ok")
    assert ended.stderr.count("speed is not simulated") == 1


@pytest.mark.parametrize("machine", ["ascend-910b2-x8:2", "hygon-k100ai-x8:2"])
def test_several_devices(simulate, machine):
    assert outcomes(simulate(machine, "python", SCRIPT, "several_devices")) == {
        "several_devices": "ok"
    }


@pytest.mark.parametrize("machine", ["ascend-910b2", "tesla-p4"])
def test_dynamo_traces_a_function_of_the_device(simulate, machine):
    ended = simulate(machine, "python", SCRIPT, "is_traced_by_dynamo")
    assert outcomes(ended) == {"is_traced_by_dynamo": "ok"}


def test_a_dtype_the_card_lacks_raises_the_cards_own_error(simulate):
    ended = simulate("ascend-910a", "python", SCRIPT, "no_bfloat16", "no_float64_products")
    assert set(outcomes(ended).values()) == {"ok"}
    assert "SAYS call aclnn" in ended.stdout
    assert "not implemented for DT_BFLOAT16" in ended.stdout
    ended = simulate("tesla-p4", "python", SCRIPT, "no_bfloat16")
    assert "CUBLAS_STATUS_NOT_SUPPORTED" in ended.stdout


def test_a_device_that_is_lost_and_an_allocation_that_fails(simulate):
    ended = simulate("tesla-p4", "python", SCRIPT, "lost_device", fault="lost:20")
    assert outcomes(ended) == {"lost_device": "ok"}
    assert "SAYS CUDA error: unspecified launch failure" in ended.stdout
    ended = simulate("ascend-910b2", "python", SCRIPT, "failed_allocation", fault="memory:3")
    assert outcomes(ended) == {"failed_allocation": "ok"}


def test_a_model_too_large_for_eight_gibibytes(simulate):
    code = """
import torch
model = torch.nn.Sequential()
try:
    for layer in range(100):
        new = torch.nn.utils.skip_init(torch.nn.Linear, 16384, 16384, bias=False, device="cuda")
        model.append(new)
except torch.OutOfMemoryError as error:
    print("LAYERS", len(model), "ALLOCATED", torch.cuda.memory_allocated(), "SAYS", error)
"""
    ended = simulate("tesla-p4", "python", "-c", code)
    # 7.5 GiB hold seven matrices of 1 GiB
    assert f"LAYERS 7 ALLOCATED {7 * 2**30} SAYS CUDA out of memory" in ended.stdout
    said = (
        "Tried to allocate 1024.00 MiB. GPU 0 has a total capacity of 7.50 GiB of which 512.00 MiB"
    )
    assert said in ended.stdout


def test_another_backend_that_has_torchs_one_place_is_named(tmp_path, monkeypatch):
    """As PyTorch's OpenReg has it, where it is installed: the command would run on that device."""
    info = tmp_path / "torch_other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch-other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[torch.backends]\nother = torch_other:load\n")
    (tmp_path / "torch_other.py").write_text(
        "def load():\n    import torch\n    torch.utils.rename_privateuse1_backend('other')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    given = environment(ACCEL_SIMULATE="mlu590", PYTHONPATH=str(tmp_path))
    with pytest.raises(InputError, match="mlu590 cannot be simulated beside torch-other") as caught:
        command._beside_others("mlu590", given, ["mlu"])
    assert "privateuse1" in str(caught.value.found).lower()
    assert "pip uninstall torch-other" in str(caught.value.remedy)
    command._beside_others("tesla-p4", given, ["cuda"])
