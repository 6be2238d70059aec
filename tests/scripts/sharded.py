"""FSDP2 in the manner of torchtitan: made on meta, sharded, checkpointed with DCP.

    torchrun --nproc_per_node 2 sharded.py
"""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.utils.checkpoint import checkpoint

local_rank, world = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
device = torch.device(f"cuda:{local_rank}")
torch.cuda.set_device(device)


class Layer(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 64), nn.Linear(64, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(64, 32)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.out = nn.Linear(32, 64)

    def forward(self, tokens):
        hidden = self.embed(tokens)
        for layer in self.layers:
            hidden = checkpoint(layer, hidden, use_reentrant=False)
        return self.out(hidden)


def main():
    dist.init_process_group("nccl", device_id=device)
    mesh = init_device_mesh("cuda", (world,), mesh_dim_names=("dp",))
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Model()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    model.to_empty(device="cuda")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    random = torch.Generator().manual_seed(7 + local_rank)
    losses = []
    for _ in range(10):
        start = torch.randint(0, 64, (8, 1), generator=random)
        tokens = ((start + torch.arange(16)) % 64).to(device, non_blocking=True)
        loss = F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        assert torch.isfinite(norm)
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        dist.all_reduce(mean, op=dist.ReduceOp.AVG)
        losses.append(mean.item())

    folder = [tempfile.mkdtemp() if local_rank == 0 else None]
    dist.broadcast_object_list(folder, src=0, device=device)
    dcp.save({"model": model.state_dict()}, checkpoint_id=f"{folder[0]}/dcp")
    before = model.out.weight.full_tensor().clone()
    with torch.no_grad():
        model.out.weight.zero_()
    kept = {"model": model.state_dict()}
    dcp.load(kept, checkpoint_id=f"{folder[0]}/dcp")
    model.load_state_dict(kept["model"])
    assert torch.equal(model.out.weight.full_tensor(), before)
    whole = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if local_rank == 0:
        assert whole["out.weight"].shape == (64, 32)

    spread = distribute_tensor(torch.arange(8.0), mesh, [Shard(0)])
    assert (spread + 1).full_tensor().sum().item() == 36
    assert spread.redistribute(placements=[Replicate()]).to_local().is_cuda
    swapped = torch.empty(world, device=device)
    dist.all_to_all_single(swapped, torch.arange(float(world), device=device))
    assert swapped.tolist() == [float(local_rank)] * world
    dist.destroy_process_group()
    if local_rank == 0:
        print(f"first {losses[0]:.4f} last {losses[-1]:.4f}")
        assert losses[-1] < losses[0]
        print("done")


if __name__ == "__main__":
    main()
