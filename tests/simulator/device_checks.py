"""Checks of a simulated device, run in a process of their own by test_sim_device.py.

    python device_checks.py NAME...

prints one line a check: its name, and `ok` or what went wrong. torch is here as a user has it.
"""

from __future__ import annotations

import io
import sys
import threading
import traceback
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody has it

DEVICE = torch.accelerator.current_accelerator()
KIND = DEVICE.type
MODULE: Any = getattr(torch, KIND)


def train(device: str, dtype: torch.dtype = torch.float32, steps: int = 4) -> list[float]:
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Embedding(50, 16),
        torch.nn.Linear(16, 32),
        torch.nn.GELU(),
        torch.nn.LayerNorm(32),
        torch.nn.Linear(32, 50),
    ).to(device, dtype)
    words = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(1)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(words).flatten(0, 1).float(), words.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert all(p.device.type == device and p.grad.device.type == device for p in model.parameters())
    return losses


def check_trains_as_the_host_does() -> None:
    assert train(KIND) == train("cpu")


def check_multiplies_beside_triton() -> None:
    """torch 2.13 does this product on CUDA with Triton, where that is installed."""
    columns, rows = torch.rand(3, 4, 1, device=KIND), torch.rand(3, 1, 5, device=KIND)
    assert torch.equal(torch.bmm(columns, rows).cpu(), torch.bmm(columns.cpu(), rows.cpu()))


def check_sums_products_of_float16_in_float32() -> None:
    torch.manual_seed(0)
    added, left, right = (torch.randn(2, 8, 8).half() for _ in range(3))

    def products(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> list[torch.Tensor]:
        one = torch.addmm(c[0], a[0], b[0], beta=0.5, alpha=2)
        return [torch.mm(a[0], b[0]), one, torch.bmm(a, b), torch.baddbmm(c, a, b, beta=0.5)]

    found = products(*(t.to(KIND) for t in (added, left, right)))
    wanted = products(*(t.float() for t in (added, left, right)))
    for each, exact in zip(found, wanted, strict=True):
        assert (each.device.type, each.dtype) == (KIND, torch.float16)
        assert torch.equal(each.cpu(), exact.half())


def check_knows_its_place() -> None:
    x = torch.ones(2, device=KIND)
    assert x.device == torch.device(KIND, 0)
    assert x.is_cuda == (KIND == "cuda")
    assert torch.accelerator.is_available()
    assert torch.accelerator.device_count() == MODULE.device_count()
    assert MODULE.get_device_name()
    assert getattr(torch.ones(1), KIND)().device.type == KIND
    assert torch.nn.Linear(1, 1).to(KIND).weight.device.type == KIND


def check_refuses_tensors_of_another_device() -> None:
    expect(RuntimeError, "same device", lambda: torch.ones(2, device=KIND) + torch.ones(2))
    assert (torch.ones(2, device=KIND) + torch.tensor(1.0)).tolist() == [2, 2]
    expect(TypeError, "to host memory first", lambda: torch.ones(1, device=KIND).numpy())


def check_views_share_and_results_do_not() -> None:
    x = torch.arange(6.0, device=KIND)
    x.view(2, 3)[1].mul_(10)
    x[::2].add_(1)
    assert x.tolist() == [1, 1, 3, 30, 41, 50]
    y = x.clone().unfold(0, 2, 2)
    assert y.shape == (3, 2)
    y.zero_()
    assert x.sum().item() == 126
    z = torch.empty(0, device=KIND)
    torch.add(x, 1, out=z)
    assert z.tolist() == [2, 2, 4, 31, 42, 51]
    z.resize_(2)
    assert z.shape == (2,)
    z.set_(x)
    assert z.data_ptr() == x.data_ptr()


def check_memory_is_counted() -> None:
    MODULE.empty_cache()
    before = MODULE.memory_allocated()
    x = torch.empty(1000, device=KIND)
    assert MODULE.memory_allocated() - before == 4096
    y = x + 1
    assert MODULE.memory_allocated() - before == 8192
    assert torch.accelerator.memory_allocated() == MODULE.memory_allocated()
    MODULE.reset_peak_memory_stats()
    del x, y
    assert MODULE.memory_allocated() == before
    assert MODULE.max_memory_allocated() - before == 8192
    free, total = MODULE.mem_get_info()
    assert 0 < free <= total


def check_memory_ends() -> None:
    _, total = MODULE.mem_get_info()
    before = MODULE.memory_allocated()
    too_large = total // 4 + 2**20
    error = expect(
        torch.OutOfMemoryError, "out of memory", lambda: torch.empty(too_large, device=KIND)
    )
    assert "Tried to allocate" in str(error)
    assert MODULE.memory_allocated() == before
    assert MODULE.memory_stats()["num_ooms"] >= 1


def check_memory_ends_inside_an_operator() -> None:
    """The host is not asked for what the card could not have given."""
    _, total = MODULE.mem_get_info()
    side = int((total / 4) ** 0.5) + 2000
    x = torch.ones(side, 1, device=KIND)
    expect(torch.OutOfMemoryError, "out of memory", lambda: x @ x.t())


def check_random_numbers() -> None:
    torch.manual_seed(5)
    a = torch.rand(4, device=KIND)
    torch.manual_seed(5)
    assert torch.equal(a, torch.rand(4, device=KIND))
    host = torch.get_rng_state()
    state = MODULE.get_rng_state()
    b = F.dropout(torch.ones(64, device=KIND), 0.5)
    MODULE.set_rng_state(state)
    assert torch.equal(b, F.dropout(torch.ones(64, device=KIND), 0.5))
    assert torch.equal(host, torch.get_rng_state()), "the host's generator was drawn from"
    one = torch.Generator(device=KIND).manual_seed(9)
    c = torch.randn(3, device=KIND, generator=one)
    assert torch.equal(c, torch.randn(3, device=KIND, generator=one.manual_seed(9)))
    with torch.random.fork_rng([0], device_type=KIND):
        torch.rand(1, device=KIND)
    # a seed and an offset, as DTensor takes them apart
    one.manual_seed(9)
    torch.rand(2, device=KIND, generator=one)
    seed, offset = one.get_state().view(torch.int64).tolist()
    assert seed == 9
    assert offset == one.get_offset() > 0
    after = torch.rand(2, device=KIND, generator=one)
    one.set_state(torch.tensor([seed, offset]).view(torch.uint8))
    assert torch.equal(after, torch.rand(2, device=KIND, generator=one))
    expect(RuntimeError, "wrong size", lambda: one.set_state(host))


def check_recurrent_layers() -> None:
    for kind in (torch.nn.LSTM, torch.nn.GRU):
        for options in ({"num_layers": 2}, {"bidirectional": True, "bias": False}):
            torch.manual_seed(0)
            layer = kind(3, 4, **options)
            x = torch.randn(5, 2, 3)
            here = _gradients(layer, x)
            there = _gradients(layer.to(KIND), x.to(KIND))
            for mine, theirs in zip(there, here, strict=True):
                torch.testing.assert_close(mine.cpu(), theirs)


def _gradients(layer: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    layer.zero_grad()
    out, state = layer(x)
    states = state if isinstance(state, tuple) else (state,)
    (out.sin().sum() + sum(one.cos().sum() for one in states)).backward()
    return [out.detach(), x.grad, *(one.grad.clone() for one in layer.parameters())]


def check_parameters_stay_when_a_model_moves() -> None:
    """A script that makes its optimizer first, as CUDA lets it, trains the model that moved."""
    model = torch.nn.Linear(2, 2)
    weight, optimizer = model.weight, torch.optim.SGD(model.parameters(), lr=0.1)
    before = weight.detach().clone()
    assert model.to(KIND).weight is weight
    assert weight.device.type == KIND
    model(torch.ones(1, 2, device=KIND)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight.detach().cpu(), before)
    assert model.cpu().weight is weight
    assert weight.grad.device.type == "cpu"


def check_streams_and_events() -> None:
    stream, start, end = (
        MODULE.Stream(),
        MODULE.Event(enable_timing=True),
        MODULE.Event(enable_timing=True),
    )
    default = MODULE.current_stream()
    with MODULE.stream(stream):
        assert MODULE.current_stream() == stream
        start.record()
        x = torch.ones(8, device=KIND) * 2
        end.record()
    assert MODULE.current_stream() == default
    stream.wait_stream(default)
    x.record_stream(stream)
    end.synchronize()
    assert end.query()
    assert start.elapsed_time(end) >= 0
    MODULE.synchronize()
    torch.accelerator.synchronize()


def check_serialisation() -> None:
    kept = io.BytesIO()
    x = torch.randn(3, device=KIND)
    torch.save({"x": x, "p": torch.nn.Parameter(x)}, kept)
    for place in (None, "cpu", KIND):
        kept.seek(0)
        loaded = torch.load(kept, map_location=place)
        assert loaded["x"].device.type == (place or KIND)
        assert torch.equal(loaded["p"].cpu(), x.cpu())


def check_autocast_and_scaler() -> None:
    linear = torch.nn.Linear(8, 8).to(KIND)
    x = torch.randn(4, 8, device=KIND)
    with torch.autocast(KIND, dtype=torch.float16):
        y = linear(x)
        assert y.dtype == torch.float16
        assert torch.softmax(y, -1).dtype == torch.float32
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(KIND, init_scale=2.0**10)
    scaler.scale(y.float().pow(2).mean()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**10
    linear.weight.grad.fill_(float("inf"))
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**9


def check_pinned_memory_and_workers() -> None:
    from torch.utils.data import DataLoader, TensorDataset

    assert torch.ones(2).pin_memory().is_pinned()
    assert not torch.ones(2).is_pinned()
    # one: torch warns where there are more of them than cores
    loader = DataLoader(TensorDataset(torch.arange(8.0)), 4, num_workers=1, pin_memory=True)
    seen = [batch.to(KIND, non_blocking=True) for (batch,) in loader]
    assert torch.cat(seen).tolist() == list(range(8))


def check_attention() -> None:
    def attend(device: str, heads: int, **options: Any) -> list[torch.Tensor]:
        random = torch.Generator().manual_seed(0)
        q, k, v = (
            torch.randn(2, n, 16, 8, generator=random).to(device).requires_grad_()
            for n in (4, heads, heads)
        )
        if options.get("attn_mask") is not None:
            options["attn_mask"] = options["attn_mask"].to(device)
        out = F.scaled_dot_product_attention(q, k, v, **options)
        out.pow(2).sum().backward()
        return [t.detach().cpu() for t in (out, q.grad, k.grad, v.grad)]

    mask = torch.ones(16, 16, dtype=torch.bool).tril(3)
    for heads, options in (
        (4, {"is_causal": True}),
        (4, {"attn_mask": mask}),
        (2, {"is_causal": True, "enable_gqa": True}),
    ):
        for got, wanted in zip(
            attend(KIND, heads, **options), attend("cpu", heads, **options), strict=True
        ):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def check_collectives_of_one_rank() -> None:
    import torch.distributed as dist

    store = dist.HashStore()
    backend = dist.get_default_backend_for_device(KIND)
    assert backend in ("nccl", "hccl", "cncl", "xccl")
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    total, gathered = torch.ones(3, device=KIND), [torch.zeros(3, device=KIND)]
    dist.all_reduce(total)
    dist.all_gather(gathered, total)
    dist.broadcast(total, 0)
    assert gathered[0].device.type == KIND
    assert gathered[0].tolist() == total.tolist() == [1.0] * 3
    dist.destroy_process_group()


def check_checkpointing_and_threads() -> None:
    from torch.utils.checkpoint import checkpoint

    linear = torch.nn.Linear(4, 4).to(KIND)
    x = torch.randn(2, 4, device=KIND, requires_grad=True)
    checkpoint(lambda t: F.dropout(linear(t), 0.5), x, use_reentrant=False).sum().backward()
    seen: list[Any] = []
    worker = threading.Thread(target=lambda: seen.append((x @ x.t()).sum().item()))
    worker.start()
    worker.join()
    assert seen == [(x @ x.t()).sum().item()]


def check_several_devices() -> None:
    assert MODULE.device_count() == 2
    x = torch.ones(2, device=f"{KIND}:1")
    assert MODULE.current_device() == 0
    with MODULE.device(1):
        assert torch.ones(1, device=KIND).device.index == 1
    expect(RuntimeError, "same device", lambda: x + torch.ones(2, device=f"{KIND}:0"))
    assert (x + x.to(f"{KIND}:0").to(f"{KIND}:1")).device.index == 1
    assert (x * 2).device.index == 1
    expect(RuntimeError, "ordinal", lambda: torch.ones(1, device=f"{KIND}:2"))


def check_is_traced_by_dynamo() -> None:
    @torch.compile(backend="aot_eager")
    def squared(x: torch.Tensor) -> torch.Tensor:
        return (x * x).sum()

    x = torch.arange(4.0, device=KIND).requires_grad_()
    squared(x).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 4.0, 6.0]


def check_no_bfloat16() -> None:
    x = torch.ones(4, 4, dtype=torch.bfloat16).to(DEVICE)
    error = expect(RuntimeError, "", lambda: x @ x)
    print("SAYS", error)


def check_no_float64_products() -> None:
    x = torch.ones(4, 4, dtype=torch.float64, device=DEVICE)
    print("SAYS", expect(RuntimeError, "DT_DOUBLE", lambda: x @ x))


def check_lost_device() -> None:
    x = torch.ones(2, device=KIND)

    def work() -> None:
        for _ in range(100):
            x.add(1)

    print("SAYS", expect(torch.AcceleratorError, "", work))
    expect(torch.AcceleratorError, "", MODULE.synchronize)


def check_failed_allocation() -> None:
    kept = [torch.empty(10, device=KIND) for _ in range(2)]
    expect(torch.OutOfMemoryError, "out of memory", lambda: torch.empty(10, device=KIND))
    assert len(kept) == 2
    assert torch.empty(10, device=KIND).shape == (10,)


def expect(kind: type[BaseException], words: str, action: Any) -> BaseException:
    try:
        action()
    except kind as error:
        assert words in str(error), error  # noqa: PT017 - this is no test file
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def main(names: list[str]) -> None:
    for name in names:
        try:
            globals()[f"check_{name}"]()
        except Exception:  # noqa: BLE001 - told to the test
            print("CHECK", name, traceback.format_exc().replace("\n", " | "))
        else:
            print("CHECK", name, "ok")


if __name__ == "__main__":
    main(sys.argv[1:])
