"""What redirecting CUDA's names costs: a training step with it and without, in one run.

    python benchmarks/cuda_scripts.py [--pairs 15] [--json]

The step is a small Llama's (forward, backward, clipping, AdamW) on the CPU, with what scripts do
around it: batches moved with `non_blocking`, autocast, GradScaler, a stream, memory statistics, a
tensor made on the device. "redirected" says `cuda` under the redirection, "plain" says `cpu`
without it, "cpu, redirected" says `cpu` under it: a script that needs nothing.

Blocks of steps alternate, the order within each round is drawn, CPU time of the process is
counted (other processes are not), and the figure is the median over rounds of the ratio within a
round, with the quartiles. On a busy machine that is good to some percent; so the calls of accel's
own functions in one step are counted as well, which is exact, and multiplied by what one costs.
The cost of single calls is in nanoseconds, the lowest of several blocks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import time
import timeit
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from accel.machine import ThisMachine
from accel.resolving import Capabilities
from accel.values import Device, Feature, Impl

HIDDEN, LAYERS, LENGTH, BATCH, VOCABULARY = 256, 4, 128, 8, 1000


def model_of() -> torch.nn.Module:
    """A decoder of 4 layers, 4 million parameters."""
    layer = torch.nn.TransformerEncoderLayer(HIDDEN, 4, 4 * HIDDEN, 0.0, batch_first=True)
    return torch.nn.Sequential(
        torch.nn.Embedding(VOCABULARY, HIDDEN),
        torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False),
        torch.nn.Linear(HIDDEN, VOCABULARY),
    )


def stepper(device: str) -> Callable[[], None]:
    """One training step, as a script writes it for `device`."""
    torch.manual_seed(0)
    model = model_of().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device)
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1))
    cuda = device == "cuda"
    stream = torch.cuda.Stream() if cuda else None

    def step() -> None:
        with torch.cuda.stream(stream) if cuda else contextlib.nullcontext():
            x = tokens[:, :-1].to(device, non_blocking=True)
            y = tokens[:, 1:].to(device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(x)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        total = torch.zeros((), device=device)
        total += loss.detach()
        if cuda:
            torch.cuda.synchronize()

    return step


@contextlib.contextmanager
def redirected() -> Iterator[None]:
    """CUDA's names mean the CPU."""
    from accel_frameworks.torch.redirecting import redirect

    device = Device(vendor="here", name="this CPU", kind="cpu", arch="here")
    have = [Impl(feature=Feature.DTYPE, name="bfloat16", priority=2)]
    undo = redirect(Capabilities(device, have, ThisMachine()))
    try:
        yield
    finally:
        undo()


def timed(step: Callable[[], None], count: int) -> float:
    """Seconds of CPU time for each step."""
    step()
    start = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - start) / count


def rounds(pairs: int, count: int) -> dict[str, list[float]]:
    """CPU seconds a step, for each way, round by round."""
    ways: dict[str, tuple[str, bool]] = {
        "plain": ("cpu", False),
        "redirected": ("cuda", True),
        "cpu, redirected": ("cpu", True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(pairs):
        order = list(ways)
        random.shuffle(order)
        for name in order:
            device, under = ways[name]
            with redirected() if under else contextlib.nullcontext():
                seconds[name].append(timed(stepper(device), count))
    return seconds


def ratios(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The median ratio to `plain` within a round, and its quartiles."""
    found = {}
    for name in ("redirected", "cpu, redirected"):
        each = [a / b for a, b in zip(seconds[name], seconds["plain"], strict=True)]
        low, middle, high = statistics.quantiles(each, n=4)
        found[name] = {"median": middle, "lower quartile": low, "upper quartile": high}
    return found


def own_frames() -> int:
    """How many of accel's Python functions a redirected step runs through."""
    own = str(Path(__file__).resolve().parents[1])
    folders = tuple(os.path.join(own, name) for name in ("accel", "plugins"))
    count = 0

    def watch(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        if event == "call" and frame.f_code.co_filename.startswith(folders):
            count += 1

    with redirected():
        step = stepper("cuda")
        step()
        sys.setprofile(watch)
        try:
            step()
        finally:
            sys.setprofile(None)
    return count


def frame_nanoseconds() -> float:
    """What one of accel's functions costs: `torch.zeros` goes through a door and a stand-in."""
    plain = _nanoseconds(lambda: torch.zeros((), device="cpu"))
    with redirected():
        under = _nanoseconds(lambda: torch.zeros((), device="cuda"))
    return max(0.0, under - plain) / 2


def calls() -> dict[str, dict[str, float]]:
    """Nanoseconds of single calls without and with the redirection."""
    x = torch.ones(4)
    single: dict[str, Callable[[], Any]] = {
        "x.to(torch.float32)": lambda: x.to(torch.float32),
        "x.to('cpu')": lambda: x.to("cpu"),
        "torch.zeros(4)": lambda: torch.zeros(4),
        "torch.tensor(1.0)": lambda: torch.tensor(1.0),
        "x.is_cuda": lambda: x.is_cuda,
        "x + x": lambda: x + x,
    }
    plain = {name: _nanoseconds(call) for name, call in single.items()}
    with redirected():
        under = {name: _nanoseconds(call) for name, call in single.items()}
    return {name: {"plain": plain[name], "redirected": under[name]} for name in single}


def _nanoseconds(call: Callable[[], Any]) -> float:
    return min(timeit.repeat(call, number=5000, repeat=7)) / 5000 * 1e9


def main() -> None:
    """Print the ratios and the single calls."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with redirected():
        timed(stepper("cuda"), 1)
    timed(stepper("cpu"), 1)
    seconds = rounds(arguments.pairs, arguments.steps)
    step, frames, each = statistics.median(seconds["plain"]), own_frames(), frame_nanoseconds()
    document: dict[str, Any] = {
        "torch": torch.__version__,
        "step_ms": 1000 * step,
        "frames": {"count": frames, "ns_each": each, "of_step": frames * each / 1e9 / step},
        "ratio": ratios(seconds),
        "calls_ns": calls(),
    }
    if arguments.json:
        print(json.dumps(document, indent=2))
        return
    print(f"torch {torch.__version__}, one thread, a step of {document['step_ms']:.0f} ms")
    share = document["frames"]["of_step"]
    print(f"  {frames} calls of accel's functions in a step, {each:.0f} ns each: {share:.4%} of it")
    for name, ratio in document["ratio"].items():
        spread = f"{ratio['lower quartile']:.4f} to {ratio['upper quartile']:.4f}"
        print(f"  {name:<16} {ratio['median']:.4f} of plain ({spread})")
    for name, cost in document["calls_ns"].items():
        print(f"  {name:<22} {cost['plain']:7.0f} ns  {cost['redirected']:7.0f} ns redirected")


if __name__ == "__main__":
    main()
