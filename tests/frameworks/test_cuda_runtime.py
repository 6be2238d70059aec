"""What is left of CUDA's runtime elsewhere: comm, cudart, graphed callables, small habits."""

from __future__ import annotations

import pytest
import torch
import torch.cuda.comm

import cuda_names
from accel.errors import AccelError, CapabilityUnavailable
from accel_frameworks.torch import comm, tensors
from accel_frameworks.torch.target import Target


@pytest.fixture(autouse=True, scope="module")
def redirected():
    with cuda_names.redirected():
        yield


def test_comm_copies_between_devices():
    x = torch.arange(6.0).view(3, 2).cuda()
    copies = torch.cuda.comm.broadcast(x, [0, 1])
    assert [copy.tolist() for copy in copies] == [x.tolist()] * 2
    assert copies[1].data_ptr() != x.data_ptr()
    assert torch.cuda.comm.reduce_add(copies, destination=0).tolist() == (2 * x).tolist()
    assert torch.cuda.comm.reduce_add([x]).data_ptr() != x.data_ptr()
    parts = torch.cuda.comm.scatter(x, [0, "cuda:1"], chunk_sizes=[1, 2])
    assert [part.shape[0] for part in parts] == [1, 2]
    assert [part.shape[0] for part in torch.cuda.comm.scatter(x, [0, 1])] == [2, 1]
    assert torch.cuda.comm.gather(parts, destination=-1).tolist() == x.tolist()
    assert torch.cuda.comm.gather(parts, out=torch.empty(3, 2)).tolist() == x.tolist()
    into = torch.cuda.comm.scatter(x, out=[torch.empty(2, 2), torch.empty(1, 2)])
    assert torch.cat(into).tolist() == x.tolist()
    assert torch.cuda.comm.broadcast(x, out=[torch.empty(3, 2)])[0].tolist() == x.tolist()
    both = torch.cuda.comm.broadcast_coalesced([x, x + 1], [0, 1])
    assert [one.tolist() for one in both[1]] == [x.tolist(), (x + 1).tolist()]
    (summed,) = torch.cuda.comm.reduce_add_coalesced([[x], [x]], destination=0)
    assert summed.tolist() == (2 * x).tolist()
    assert torch.cuda.comm.broadcast(torch.ones(2) * 1j, [0])[0].shape == (2, 2)
    with pytest.raises(RuntimeError, match="Exactly one"):
        torch.cuda.comm.broadcast(x)
    with pytest.raises(RuntimeError, match="Exactly one"):
        torch.cuda.comm.gather(parts, destination=0, out=torch.empty(3, 2))


def test_data_parallel_as_a_function():
    model = torch.nn.Linear(2, 1).cuda()
    x = torch.ones(3, 2).cuda()
    out = torch.nn.parallel.data_parallel(model, x, device_ids=[0, 1])
    assert torch.equal(out, model(x))


def test_nccl_says_a_version_and_refuses_the_rest():
    asked = cuda_names.script("v = torch.cuda.nccl.version()", torch=torch)
    assert asked["v"] == comm.NCCL_VERSION >= (2, 10)
    with pytest.raises(AccelError, match=r"nccl\.all_reduce is CUDA's alone") as caught:
        torch.cuda.nccl.all_reduce([torch.ones(1)])
    assert "torch.distributed" in str(caught.value)


def test_the_runtime_starts_a_profiler_that_is_not_there():
    runtime = torch.cuda.cudart()
    torch.cuda.check_error(runtime.cudaProfilerStart())
    torch.cuda.check_error(runtime.cudaProfilerStop())
    assert runtime.cudaError.success == 0
    free, total = runtime.cudaMemGetInfo(0)
    assert 0 < free <= total
    assert not hasattr(runtime, "no_such_thing")
    with pytest.raises(AccelError, match="cudaHostRegister is CUDA's alone"):
        runtime.cudaHostRegister(0, 0, 0)
    with torch.autograd.profiler.emit_nvtx(record_shapes=True) as emitting:
        assert emitting.enabled


def test_graphed_callables_are_the_functions_themselves():
    with cuda_names.redirected() as given:
        model = torch.nn.Linear(2, 2)
        assert torch.cuda.make_graphed_callables(model, (torch.ones(1, 2),)) is model
        (note,) = [one for one in given.notes if "make_graphed_callables" in one.subject]
        assert "no graphs" in note.message
    refused = pytest.raises(CapabilityUnavailable, match="make_graphed_callables")
    with cuda_names.redirected(cuda_names.capabilities(strict=True)), refused:
        torch.cuda.make_graphed_callables(model, (torch.ones(1, 2),))


def test_an_optimizer_that_could_be_captured_steps():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight], lr=0.1, capturable=True)
    weight.sum().backward()
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.9, 0.9])


def test_choices_among_cudas_libraries_choose_nothing():
    before = torch.backends.cuda.preferred_linalg_library()
    assert torch.backends.cuda.preferred_linalg_library("cusolver") == before
    assert torch.backends.cuda.preferred_blas_library("cublaslt") is not None
    plans = torch.backends.cuda.cufft_plan_cache
    plans.max_size = 10
    plans[0].clear()
    assert plans.size == 0


def test_small_habits():
    pinned = torch.tensor([1.0], pin_memory=True)
    where = pinned.cuda().get_device()  # -1 on a CPU
    total = torch.zeros(1, device=where) + pinned.cuda(where) + torch.ones(1).to(where)
    assert total.item() == 2
    from torch.distributed.fsdp._init_utils import _check_module_states_for_sync_module_states

    _check_module_states_for_sync_module_states([torch.ones(1)])


@pytest.mark.filterwarnings("ignore:torch.set_default_tensor_type")
def test_a_type_of_the_hosts_takes_the_default_device_back():
    target = Target("meta", "Test Card")
    set_type = tensors._default_type(torch.set_default_tensor_type, target)
    try:
        set_type("torch.cuda.FloatTensor")
        assert torch.zeros(1).device.type == "meta"
        set_type("torch.FloatTensor")
        assert torch.zeros(1).device.type == "cpu"
    finally:
        torch.set_default_device(None)


SCRIPT = """
import pickle, torch
assert pickle.loads(pickle.dumps(torch.zeros)) is torch.zeros

@torch.jit.script
def scripted(x: float):
    return torch.tensor(x) + torch.zeros(1, device="cuda")

assert scripted(2.0).item() == 2
from torch.distributed.optim import ZeroRedundancyOptimizer
print("done")
"""


def test_under_accel_run_pickle_and_torchscript_know_torchs_functions(run, tmp_path):
    """There torch is patched while it is being imported."""
    file = tmp_path / "train.py"
    file.write_text(SCRIPT, encoding="utf-8")
    ended = run("-m", "accel", "run", "--device", "cpu", str(file), ACCEL_PROBE="0")
    assert ended.stdout == "done\n", ended.stderr
