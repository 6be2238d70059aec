"""`revert()` gives everything back by identity; a CUDA device that is there is left alone."""

from __future__ import annotations

import json
import types

import pytest

from accel.machine import ThisMachine
from accel_frameworks import torch as torch_repairs

IDENTITY = """
import gc, json, sys, torch, torch.distributed as dist
import torch._dynamo, torch.distributed.fsdp, torch.distributed.device_mesh
from torch.cuda.amp import GradScaler, autocast
from torch import zeros, tensor
held = (GradScaler, autocast, zeros, tensor)
WATCHED = [torch, torch.cuda, torch.cuda.memory, torch.cuda.random, torch.cuda.streams, torch.amp,
    torch.cuda.nvtx, torch.cuda.profiler, torch.jit, torch.serialization, torch.Tensor,
    torch.random, torch.nn.Module, torch.amp.autocast_mode, torch.autocast, torch.amp.GradScaler,
    dist, torch.cuda.amp, torch.cuda.amp.autocast_mode, torch.distributed.distributed_c10d,
    torch.storage.UntypedStorage, torch.storage.TypedStorage, torch.storage._StorageBase,
    torch.nn.parallel.DistributedDataParallel, torch.utils.data.DataLoader, torch._C,
    torch.utils._device.DeviceContext, torch.backends.cuda, torch.nn.attention,
    torch.cuda.jiterator, torch.distributed.device_mesh, torch._dynamo.output_graph.SubgraphTracer,
    torch._dynamo.trace_rules]
# Dynamo puts a few things of its own into torch when it first compiles
torch.compile(lambda x: torch.tensor([1.0]) + x, backend="eager")(torch.ones(1))
def seen():
    return {(id(w), n): v for w in WATCHED for n, v in list(vars(w).items())}
before = seen()
registry = list(torch.serialization._package_registry)
table = dict(torch.jit._builtins._get_builtin_table())
import accel
report = accel.auto("cpu")
(entry,) = [e for e in report.entries if e.patch.owner == "torch"]
assert entry.state == "applied", entry
during = seen()
changed = sum(during[k] is not v for k, v in before.items())
torch.zeros(2, device="cuda"); torch.ones(2).cuda()
compiled = torch.compile(lambda x: torch.tensor([1.0]) + x.cuda(), backend="eager", fullgraph=True)
compiled(torch.ones(1))
report.revert()
after = seen()
names = {id(w): getattr(w, "__name__", "?") for w in WATCHED}
different = [f"{names[k[0]]}.{k[1]}" for k, v in before.items() if after.get(k) is not v]
extra = [f"{names[k[0]]}.{k[1]}" for k in after if k not in before]
errors = []
for make in (lambda: torch.zeros(2, device="cuda"), lambda: torch.ones(2).cuda(),
             lambda: torch.ones(2).to("cuda"), lambda: torch.cuda.current_device()):
    try:
        make()
    except Exception as error:
        errors.append(type(error).__name__)
torch._dynamo.reset()
again = torch.compile(lambda x: torch.tensor([1.0]) + x, backend="eager", fullgraph=True)
print(json.dumps({"changed": changed, "different": different, "extra": extra, "errors": errors,
    "held": held == (GradScaler, autocast, zeros, tensor) and zeros is torch.zeros,
    "registry": registry == torch.serialization._package_registry,
    "table": table.items() <= torch.jit._builtins._get_builtin_table().items(),
    "again": again(torch.ones(1)).tolist()}))
"""


def test_everything_is_given_back_by_identity(run):
    ended = run("-W", "ignore", "-c", IDENTITY, ACCEL_PROBE="0")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["changed"] > 150
    assert told["different"] == []
    assert told["extra"] == []
    assert len(told["errors"]) == 4
    assert told["held"]
    assert told["registry"]
    assert told["table"]
    assert told["again"] == [2]


def test_import_order_does_not_matter(run):
    code = """
import accel
report = accel.auto("cpu")
from torch import zeros
from torch.cuda.amp import autocast
import torch
assert zeros(2, device="cuda").device.type == "cpu"
weight = torch.ones(2, device="cuda", requires_grad=True)
torch.optim.AdamW([weight], fused=True)     # imports Dynamo
options = {"backend": "eager", "fullgraph": True}
fn = torch.compile(lambda x: torch.tensor([1.0], device="cuda") + x, **options)
print(fn(torch.ones(1)).item())
report.revert()
torch._dynamo.reset()
fn = torch.compile(lambda x: torch.tensor([1.0]) + x, backend="eager", fullgraph=True)
print(fn(torch.ones(1)).item(), zeros is torch.zeros)
"""
    ended = run("-W", "ignore", "-c", code, ACCEL_PROBE="0")
    assert ended.stdout.split() == ["2.0", "2.0", "True"], ended.stderr


def test_the_switch(run):
    code = "import accel; r = accel.auto('cpu'); import torch; torch.ones(2).cuda()"
    for value in ("off", "0", "no"):
        ended = run("-c", code, ACCEL_PROBE="0", ACCEL_CUDA_NAMES=value)
        assert "Torch not compiled with CUDA enabled" in ended.stderr
    assert run("-c", code, ACCEL_PROBE="0").returncode == 0


def test_the_report_says_what_is_redirected(run):
    code = "import accel, torch; print(accel.auto('cpu'))"
    ended = run("-c", code, ACCEL_PROBE="0")
    text = " ".join(ended.stdout.split())
    assert "mean cpu" in text, ended.stderr
    assert "ACCEL_CUDA_NAMES=off" in text


def patches(name):
    from accel import plan

    return [p for p in plan(machine=name).patches if p.owner == "torch"]


@pytest.mark.parametrize("name", ["h100", "mi300x", "hygon-k100ai-x8", "tesla-p4-x4"])
def test_on_a_device_whose_torch_type_is_cuda_nothing_is_redirected(name):
    assert [p.target for p in patches(name)] == ["torch.cuda:is_bf16_supported"]


@pytest.mark.parametrize(
    "name", ["ascend-910b2-x8", "cambricon-mlu590", "moore-s4000", "intel-arc-b60", "apple-m2-max"]
)
def test_on_any_other_it_is(name):
    assert [p.target for p in patches(name)] == ["torch"]


@pytest.mark.parametrize(
    ("built", "count", "named", "left_alone"),
    [(True, 1, False, True), (True, 1, True, False), (True, 0, False, False), (False, 1, False, 0)],
)
def test_a_cuda_device_beside_another_stays_cuda_unless_the_other_was_named(
    built, count, named, left_alone
):
    fake = types.SimpleNamespace(
        backends=types.SimpleNamespace(cuda=types.SimpleNamespace(is_built=lambda: built)),
        cuda=types.SimpleNamespace(device_count=lambda: count),
    )
    from accel.resolving import Capabilities
    from accel.values import Device

    device = Device(vendor="x", name="Other", kind="npu", arch="y")
    given = Capabilities(device, [], ThisMachine(), chosen_by_name=named)
    (patch,) = torch_repairs.accel_patches(device, given)
    assert patch.guard is not None
    assert bool(patch.guard(fake)) is bool(left_alone)


def test_a_redirection_that_cannot_be_done_leaves_nothing(monkeypatch):
    import torch

    import cuda_names
    from accel.errors import PatchError
    from accel_frameworks.torch import amp, redirecting

    def broken(target, capabilities):
        yield from amp.patches(target, capabilities)
        yield redirecting.Patch(target="torch:zeros", reason="x", replace=lambda original: 1 // 0)

    before = (torch.zeros, torch.autocast.__init__, torch.cuda.is_available)
    monkeypatch.setattr(redirecting, "patches_for", broken)
    with pytest.raises(PatchError, match="torch:zeros: ZeroDivisionError"), cuda_names.redirected():
        pass
    assert before == (torch.zeros, torch.autocast.__init__, torch.cuda.is_available)
    with pytest.raises((AssertionError, NotImplementedError)):
        torch.zeros(2, device="cuda")


@pytest.mark.parametrize("count", [0, 1])
def test_cuda_that_was_kept_from_starting_starts_after_all(monkeypatch, count):
    import torch

    import cuda_names

    started = []
    with cuda_names.redirected():
        torch.cuda._lazy_init()
        undone = torch.cuda.init
    assert torch.cuda.init is not undone
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: started.append(1))
    with cuda_names.redirected():
        torch.cuda._lazy_init()
    assert started == [1] * count
