"""Collectives of simulated cards: right sums between processes, and the real ones' refusals."""

from __future__ import annotations

import pytest

from sim_support import HERE, needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow]

TORCHRUN = ("python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_two_ranks_train_with_hccl_and_float64_is_refused(simulate):
    ended = simulate("ascend-910b2-x8:2", *TORCHRUN, str(HERE / "rank_checks.py"), "hccl", "npu")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for rank in (0, 1):
        said = f"RANK {rank} refused: HCCL AllReduce & Reduce: Unsupported data type at::kDouble"
        assert said in ended.stdout
        assert f"RANK {rank} done" in ended.stdout


def test_two_ranks_train_with_cncl_and_float64_is_refused(simulate):
    ended = simulate("mlu590:2", *TORCHRUN, str(HERE / "rank_checks.py"), "cncl", "mlu")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for rank in (0, 1):
        assert f"RANK {rank} refused: cncl: Double goes over the wire as float32" in ended.stdout
        assert f"RANK {rank} done" in ended.stdout


def test_two_ranks_train_with_nccl_on_simulated_cuda(simulate):
    ended = simulate("hygon-k100ai-x8:2", *TORCHRUN, str(HERE / "rank_checks.py"), "nccl", "cuda")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "RANK 0 float64 went through" in ended.stdout
    assert "RANK 1 done" in ended.stdout


def test_gloo_carries_the_tensors_of_a_cuda_device_and_does_not_send_them(simulate):
    ended = simulate("tesla-p4-x4:2", *TORCHRUN, str(HERE / "rank_checks.py"), "gloo", "cuda")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "RANK 0 float64 went through" in ended.stdout
    assert "RANK 1 gloo has no send for a CUDA device's tensors" in ended.stdout
    assert "RANK 1 done" in ended.stdout


def test_a_collective_that_times_out(simulate):
    ended = simulate(
        "ascend-910b2-x8:2",
        *TORCHRUN,
        str(HERE / "rank_checks.py"),
        "hccl",
        "npu",
        fault="timeout:1",
    )
    assert ended.returncode != 0
    assert "collective operation timeout: WorkHCCL(OpType=allreduce" in ended.stderr
