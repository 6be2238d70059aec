"""The DDP tutorial's three ways, started by mp.spawn: one process for each GPU."""

import os
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.optim as optim
from torch.nn.parallel import DistributedDataParallel as DDP


def setup(rank, world_size):
    os.environ["MASTER_ADDR"] = "localhost"
    os.environ.setdefault("MASTER_PORT", "12355")
    dist.init_process_group("cpu:gloo,cuda:nccl", rank=rank, world_size=world_size)
    torch.cuda.set_device(rank)


class ToyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.net1 = nn.Linear(10, 10)
        self.relu = nn.ReLU()
        self.net2 = nn.Linear(10, 5)

    def forward(self, x):
        return self.net2(self.relu(self.net1(x)))


def demo_checkpoint(rank, world_size, path):
    setup(rank, world_size)
    model = ToyModel().to(rank)
    ddp_model = DDP(model, device_ids=[rank])
    if rank == 0:
        torch.save(ddp_model.state_dict(), path)
    dist.barrier()
    map_location = {"cuda:%d" % 0: "cuda:%d" % rank}
    ddp_model.load_state_dict(torch.load(path, map_location=map_location, weights_only=True))
    optimizer = optim.SGD(ddp_model.parameters(), lr=0.1)
    loss_fn = nn.MSELoss()
    generator = torch.Generator(device=f"cuda:{rank}")
    generator.manual_seed(rank)
    for _ in range(5):
        optimizer.zero_grad()
        outputs = ddp_model(torch.randn(20, 10, generator=generator, device=rank_device(rank)))
        labels = torch.randn(20, 5).to(rank)
        loss = loss_fn(outputs, labels)
        loss.backward()
        optimizer.step()
    found = [None] * world_size
    dist.all_gather_object(found, {"rank": rank, "loss": loss.item()})
    best = torch.tensor([loss.item()], device="cuda")
    dist.all_reduce(best, op=dist.ReduceOp.MIN)
    assert best.item() == min(one["loss"] for one in found)
    dist.destroy_process_group()
    if rank == 0:
        print("losses", [round(one["loss"], 4) for one in found])


def rank_device(rank):
    return torch.device("cuda", rank)


if __name__ == "__main__":
    world_size = int(sys.argv[1]) if len(sys.argv) > 1 else torch.cuda.device_count()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(demo_checkpoint, args=(world_size, folder + "/model.checkpoint"),
                 nprocs=world_size, join=True)
    print("done")
