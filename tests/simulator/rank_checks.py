"""What each rank of a simulated machine does, started by torchrun in test_sim_collectives.py."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def main(backend: str, kind: str) -> None:
    rank = int(os.environ["LOCAL_RANK"])
    getattr(torch, kind).set_device(rank)
    device = torch.device(kind, rank)
    dist.init_process_group(backend)
    total = torch.full((4,), float(rank + 1), device=device)
    dist.all_reduce(total)
    assert total.tolist() == [3.0] * 4, total
    gathered = [torch.zeros(2, device=device) for _ in range(2)]
    dist.all_gather(gathered, torch.full((2,), float(rank), device=device))
    assert [t[0].item() for t in gathered] == [0.0, 1.0]
    if backend != "gloo":
        row = torch.empty(1, 4, device=device)
        dist.all_gather_into_tensor(row, torch.full((2,), float(rank), device=device))
        assert row.tolist() == [[0.0, 0.0, 1.0, 1.0]]
        parts = [torch.zeros(1, device=device) for _ in range(2)] if rank == 1 else None
        dist.gather(torch.full((1,), float(rank), device=device), parts, dst=1)
        assert parts is None or [one.item() for one in parts] == [0.0, 1.0]
        check_norm(rank, device)
    torch.manual_seed(rank)
    model = DistributedDataParallel(torch.nn.Linear(8, 8).to(device), device_ids=[rank])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 8, device=device)).pow(2).mean().backward()
        optimizer.step()
    weight = model.module.weight.detach().clone()
    other = weight.clone()
    dist.broadcast(other, 0)
    assert torch.equal(weight, other), "ranks have drifted apart"
    assert weight.device == device
    try:
        dist.all_reduce(torch.ones(2, dtype=torch.float64, device=device))
        print(f"RANK {rank} float64 went through")
    except RuntimeError as error:
        print(f"RANK {rank} refused: {error}")
    if backend == "gloo":
        try:
            dist.send(total, 1 - rank)
        except RuntimeError as error:
            print(f"RANK {rank} {error}")
    dist.barrier()
    dist.destroy_process_group()
    print(f"RANK {rank} done")


def check_norm(rank: int, device: torch.device) -> None:
    """SyncBatchNorm over two ranks is BatchNorm over their batch."""
    torch.manual_seed(7)
    batch = torch.randn(6, 3, 4)
    norms = torch.nn.BatchNorm1d(3), torch.nn.SyncBatchNorm(3).to(device)
    whole, mine = (x.requires_grad_() for x in (batch.clone(), batch[3 * rank :][:3].to(device)))
    norms[0](whole).pow(3).sum().backward()
    norms[1](mine).pow(3).sum().backward()
    torch.testing.assert_close(mine.grad.cpu(), whole.grad[3 * rank :][:3], rtol=1e-4, atol=1e-5)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(norms[1], name).cpu(), getattr(norms[0], name))
    gradient = norms[1].weight.grad.clone()
    dist.all_reduce(gradient)
    torch.testing.assert_close(gradient.cpu(), norms[0].weight.grad, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
