"""nccl, CUDA's ids and CUDA's variables, where ranks are on another device."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

import cuda_names
from accel_frameworks.torch import distributed

RANK = """
import os, datetime, warnings, torch, torch.distributed as dist
rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(rank)
dist.init_process_group(BACKEND, device_id=torch.device("cuda", rank),
                        timeout=datetime.timedelta(seconds=60))
assert dist.get_backend() == "gloo", dist.get_backend()
assert torch.cuda.current_device() == rank and torch.cuda.device_count() == 2
x = torch.full((2,), float(rank + 1), device=f"cuda:{rank}")
dist.all_reduce(x)
assert x.tolist() == [3, 3]
x = torch.full((2,), float(rank + 1), device="cuda")
dist.all_reduce(x, op=dist.ReduceOp.AVG)
assert x.tolist() == [1.5, 1.5]
work = dist.all_reduce(x, async_op=True)
work.wait()
assert x.tolist() == [3, 3]
work = dist.all_reduce(x, dist.ReduceOp.AVG, async_op=True)
work.wait()
work.wait()
assert x.tolist() == [3, 3] and work.is_completed()
half = torch.empty(1, device="cuda")
dist.reduce_scatter_tensor(half, torch.tensor([rank, rank + 2.0]).cuda(), op=dist.ReduceOp.AVG)
assert half.item() == [0.5, 2.5][rank]
if hasattr(dist, "reduce_scatter_single"):  # torch 2.13
    dist.reduce_scatter_single(half, torch.tensor([rank, rank + 4.0]), op=dist.ReduceOp.AVG)
    assert half.item() == [0.5, 4.5][rank]
dist.reduce_scatter(half, [torch.tensor([rank + 1.0]), torch.ones(1)], op=dist.ReduceOp.AVG)
assert half.item() == [1.5, 1.0][rank]
total = torch.tensor([rank * 2.0]).cuda()
dist.reduce(total, 0, op=dist.ReduceOp.AVG)
assert rank or total.item() == 1
first = dist.new_group([0], backend="nccl")
alone = torch.tensor([4.0]).cuda()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns the rank that is not in the group
    dist.all_reduce(alone, op=dist.ReduceOp.AVG, group=first)
assert alone.item() == 4
things = [{"rank": 0}, "text"] if rank == 0 else [None, None]
dist.broadcast_object_list(things, src=0, device=torch.device("cuda", rank))
assert things == [{"rank": 0}, "text"]
found = [None, None]
dist.all_gather_object(found, rank)
assert found == [0, 1]
out = torch.empty(4, device="cuda")
dist.all_gather_into_tensor(out, x)
assert out.tolist() == [3, 3, 3, 3]
group = dist.new_group([0, 1], backend="nccl")
dist.barrier(group=group)
dist.barrier(device_ids=[rank])
from torch.distributed.device_mesh import init_device_mesh
mesh = init_device_mesh("cuda", (2,), mesh_dim_names=("dp",))
assert mesh.device_type == "cpu"
model = torch.nn.Linear(2, 2).cuda(rank)
ddp = torch.nn.parallel.DistributedDataParallel(
    model, device_ids=[rank], output_device=rank, process_group=group)
ddp(torch.ones(1, 2, device="cuda")).sum().backward()
grad = model.weight.grad.clone()
dist.all_reduce(grad)
assert torch.equal(grad, model.weight.grad * 2)
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
sharded = FSDP(torch.nn.Linear(4, 4), device_id=torch.cuda.current_device(),
               sync_module_states=True)
sharded(torch.ones(1, 4, device="cuda")).sum().backward()
from torch.distributed._composable.fsdp import fully_shard
tensor_sharded = torch.nn.Linear(4, 4).cuda()
fully_shard(tensor_sharded, mesh=mesh)
tensor_sharded(torch.ones(1, 4, device="cuda")).sum().backward()
assert dist.is_nccl_available()
torch.manual_seed(0)
whole = torch.randn(8, 3, 4, 4, dtype=torch.float64)
bn, plain = torch.nn.BatchNorm2d(3).double(), torch.nn.BatchNorm2d(3).double()
synced = torch.nn.SyncBatchNorm.convert_sync_batchnorm(bn).cuda()
mine = whole[rank * 4:rank * 4 + 4].clone().cuda().requires_grad_()
everything = whole.clone().requires_grad_()
weights = torch.randn_like(whole)
(synced(mine) * weights[rank * 4:rank * 4 + 4]).sum().backward()
(plain(everything) * weights).sum().backward()
torch.testing.assert_close(mine.grad, everything.grad[rank * 4:rank * 4 + 4], atol=1e-5, rtol=1e-4)
for name in ("running_mean", "running_var"):
    torch.testing.assert_close(getattr(synced, name), getattr(plain, name), atol=1e-5, rtol=1e-4)
synced.eval()(mine)
torch.nn.parallel.DistributedDataParallel(synced.train(), device_ids=[rank])(mine)
print(f"rank {rank} is right\\n", end="", flush=True)
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["nccl", "cpu:gloo,cuda:nccl"])
def test_two_ranks(run, tmp_path, backend, free_port):
    script = tmp_path / "rank.py"
    script.write_text(RANK.replace("BACKEND", repr(backend)), encoding="utf-8")
    ended = run(
        *("-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node", "2"),
        *("--master_port", str(free_port), str(script)),
        ACCEL_AUTO="1",
        ACCEL_DEVICE="cpu",
        ACCEL_PROBE="0",
        OMP_NUM_THREADS="1",
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(line for line in ended.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0 is right",
        "rank 1 is right",
    ]


@pytest.mark.parametrize(
    ("backend", "kind", "own", "given"),
    [
        ("nccl", "npu", "hccl", "hccl"),
        ("NCCL", "mlu", "cncl", "cncl"),
        ("gloo", "npu", "hccl", "gloo"),
        ("cuda:nccl", "npu", "hccl", "npu:hccl"),
        ("cpu:gloo,cuda:nccl", "npu", "hccl", "cpu:gloo,npu:hccl"),
        ("cpu:gloo,cuda:nccl", "cpu", "gloo", "gloo"),
        ("cuda:nccl,cpu:gloo", "cpu", "gloo", "gloo"),
        ("cpu:mpi,cuda:nccl", "cpu", "gloo", "mpi"),
        ("ucc", "musa", "mccl", "ucc"),
    ],
)
def test_the_backends_name(backend, kind, own, given):
    assert distributed.renamed(backend, kind, own) == given


names = st.sampled_from(["nccl", "gloo", "mpi", "ucc", "NCCL", ""])
devices = st.sampled_from(["cuda", "cpu", "xpu", "npu"])
parts = st.lists(st.one_of(names, st.tuples(devices, names).map(":".join)), max_size=4)


@hypothesis.given(parts, st.sampled_from([("npu", "hccl"), ("cpu", "gloo"), ("xpu", "xccl")]))
def test_no_nccl_is_left_and_once_is_enough(given, target):
    kind, own = target
    text = ",".join(given)
    once = distributed.renamed(text, kind, own)
    assert "nccl" not in once.lower()
    assert "cuda" not in once
    assert distributed.renamed(once, kind, own) == once
    typed = [part.partition(":")[0] for part in once.split(",") if ":" in part]
    assert len(typed) == len(set(typed))


def test_variables_with_the_same_meaning():
    given = {
        "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128",
        "NCCL_SOCKET_IFNAME": "eth0",
        "NCCL_DEBUG": "INFO",
    }
    assert distributed.environment("npu", "hccl", given) == {
        "PYTORCH_NPU_ALLOC_CONF": "max_split_size_mb:128",
        "HCCL_SOCKET_IFNAME": "eth0",
    }
    assert distributed.environment("cpu", "gloo", given) == {"GLOO_SOCKET_IFNAME": "eth0"}
    own = {**given, "HCCL_SOCKET_IFNAME": "eth1", "PYTORCH_NPU_ALLOC_CONF": "x:y"}
    assert distributed.environment("npu", "hccl", own) == {}


def test_a_backend_that_torch_does_not_know_becomes_gloo_and_is_said():
    from accel_frameworks.torch.target import Target

    given = cuda_names.capabilities(kind="npu", collective="hccl")
    ranks = distributed._Ranks(Target("cpu", "x"), given)
    assert ranks.backend("nccl") == "gloo"
    (note,) = given.notes
    assert "hccl is not registered" in note.message
    assert ranks.backend(None) is None
    assert ranks.backend("gloo") == "gloo"


def test_who_lacks_an_average():
    from accel.machine import ThisMachine
    from accel.resolving import Capabilities
    from accel.values import Device, Feature, Impl
    from accel_frameworks.torch.averaging import lacks_average

    device = Device(vendor="x", name="y", kind="mlu", arch="z")
    own = [
        Impl(feature=Feature.COLLECTIVE, name="cncl", limits={"missing_ops": ["AVG", "BAND"]}),
        Impl(feature=Feature.COLLECTIVE, name="hccl", limits={"missing_ops": ["BAND"]}),
    ]
    given = Capabilities(device, own, ThisMachine())
    found = {name: lacks_average(name, given) for name in ("cncl", "hccl", "gloo", "cpu:gloo")}
    assert found == {"cncl": True, "hccl": False, "gloo": True, "cpu:gloo": True}


def test_a_destroyed_group_lets_go_of_its_work_first_where_it_is_over_gloo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accel_frameworks.torch.target import Target

    order: list[str] = []
    monkeypatch.setattr(distributed, "_let_go", lambda: order.append("let go"))
    ranks = distributed._Ranks(Target("cpu", "x"), cuda_names.capabilities())
    destroy = ranks.destroy_process_group(lambda: order.append("destroyed"))
    destroy()
    assert order == ["destroyed"]
    ranks.over_gloo = True
    destroy()
    assert order == ["destroyed", "let go", "destroyed"]
