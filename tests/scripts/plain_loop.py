"""A plain PyTorch training loop, written for CUDA and nothing else.

    python plain_loop.py
    torchrun --nproc_per_node 2 plain_loop.py

AMP with GradScaler, streams and events, pinned memory with a prefetcher, DDP over nccl, memory
statistics, checkpoints that come back with map_location.
"""

import argparse
import os
import random
import tempfile

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.cuda.amp import GradScaler, autocast
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("NCCL_DEBUG", "WARN")

assert torch.cuda.is_available(), "this script needs a GPU"

torch.backends.cudnn.benchmark = True
torch.backends.cuda.matmul.allow_tf32 = True
torch.backends.cudnn.allow_tf32 = True


class Spirals(Dataset):
    def __init__(self, n=512, seed=0):
        rng = np.random.default_rng(seed)
        self.y = rng.integers(0, 3, n)
        r = rng.uniform(0.1, 1, n)
        t = self.y * 2.1 + 4 * r + rng.normal(0, 0.1, n)
        self.x = np.stack([r * np.sin(t), r * np.cos(t)], 1).astype("float32")

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return torch.from_numpy(self.x[i]), int(self.y[i])


class Net(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.fc1 = nn.Linear(2, width)
        self.fc2 = nn.Linear(width, width)
        self.out = nn.Linear(width, 3)
        self.register_buffer("steps", torch.zeros(1, dtype=torch.long))

    def forward(self, x):
        assert x.is_cuda
        self.steps += 1
        return self.out(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Prefetcher:
    """Copies the next batch on a stream of its own, as in NVIDIA's examples."""

    def __init__(self, loader):
        self.loader = iter(loader)
        self.stream = torch.cuda.Stream()
        self.preload()

    def preload(self):
        try:
            self.x, self.y = next(self.loader)
        except StopIteration:
            self.x = None
            return
        with torch.cuda.stream(self.stream):
            self.x = self.x.cuda(non_blocking=True)
            self.y = self.y.cuda(non_blocking=True)

    def next(self):
        torch.cuda.current_stream().wait_stream(self.stream)
        x, y = self.x, self.y
        if x is not None:
            x.record_stream(torch.cuda.current_stream())
            y.record_stream(torch.cuda.current_stream())
            self.preload()
        return x, y


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--amp", default="float16", choices=["float16", "bfloat16", "none"])
    args = parser.parse_args()

    distributed = "RANK" in os.environ
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    torch.cuda.set_device(local_rank)
    device = torch.device("cuda", local_rank)
    if distributed:
        dist.init_process_group(backend="nccl", init_method="env://")

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.cuda.manual_seed_all(0)

    print(f"training on {torch.cuda.get_device_name(local_rank)}, cuda:{torch.cuda.current_device()}"
          f" of {torch.cuda.device_count()}")

    data = Spirals()
    sampler = DistributedSampler(data) if distributed else None
    loader = DataLoader(data, batch_size=64, sampler=sampler, shuffle=sampler is None,
                        num_workers=1, pin_memory=True, drop_last=True)

    model = Net().cuda()
    if distributed:
        model = DDP(model, device_ids=[local_rank], output_device=local_rank)
    criterion = nn.CrossEntropyLoss().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = GradScaler(enabled=args.amp == "float16")
    dtype = getattr(torch, args.amp, None)

    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    torch.cuda.reset_peak_memory_stats()
    start.record()
    first = last = None
    for epoch in range(args.epochs):
        if sampler is not None:
            sampler.set_epoch(epoch)
        prefetcher = Prefetcher(loader)
        x, y = prefetcher.next()
        total = torch.zeros(1, device="cuda")
        batches = 0
        while x is not None:
            torch.cuda.nvtx.range_push("step")
            optimizer.zero_grad(set_to_none=True)
            with autocast(enabled=dtype is not None, dtype=dtype or torch.float16):
                loss = criterion(model(x), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            torch.cuda.nvtx.range_pop()
            total += loss.detach()
            batches += 1
            x, y = prefetcher.next()
        total /= batches
        if distributed:
            dist.all_reduce(total, op=dist.ReduceOp.AVG)
        last = total.item()
        first = last if first is None else first
        if local_rank == 0:
            print(f"epoch {epoch} loss {last:.6f}")
    end.record()
    torch.cuda.synchronize()
    mib = torch.cuda.max_memory_allocated(device) / 2**20
    print(f"took {start.elapsed_time(end):.0f} ms, peak memory {mib:.0f} MiB")

    if local_rank == 0:
        with tempfile.NamedTemporaryFile(suffix=".pt") as file:
            bare = model.module if distributed else model
            torch.save({"model": bare.state_dict(), "rng": torch.cuda.get_rng_state()}, file.name)
            kept = torch.load(file.name, map_location=f"cuda:{local_rank}")
            bare.load_state_dict(kept["model"])
            torch.cuda.set_rng_state(kept["rng"].cpu())
    if distributed:
        dist.barrier(device_ids=[local_rank])
        dist.destroy_process_group()
    torch.cuda.empty_cache()
    assert last < first, (first, last)
    if local_rank == 0:
        print("done")


if __name__ == "__main__":
    main()
