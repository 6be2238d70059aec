"""Times y = x W and its dX with 4-bit weights on the processor, beside torch's own ways.

    python benchmarks/cpu_kernels.py [--size 4096x4096] [--threads 2] [--dtype bfloat16] [--json]

Each way takes its turn in every round, so that what else the machine does falls on all of them
alike; the weights rotate, so that each call reads its own from memory; times are medians, or with
--least the least. Every result is first compared with float64.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

# This folder holds a file that would hide a package other libraries import.
sys.path.append(sys.path.pop(0))

from accel_kernels import providers
from accel_kernels.formats import QuantizedWeight, from_values
from accel_kernels.ops import linear
from accel_kernels.providers import Shape

GROUP = 128
ROWS = (1, 4, 16, 64, 128, 512)
ALIKE = 24_000_000
"""Bytes of dense weights that a round goes through at least, more than a cache usually keeps."""

Call = Callable[[], torch.Tensor]


def weight_of(k: int, n: int, seed: int) -> QuantizedWeight:
    """Random 4-bit weights with zeros, of the size that a trained model's have."""
    made = torch.Generator().manual_seed(seed)
    return from_values(
        torch.randint(0, 16, (k, n), generator=made, dtype=torch.uint8),
        torch.randint(0, 16, (k // GROUP, n), generator=made, dtype=torch.uint8),
        (torch.rand(k // GROUP, n, generator=made) + 0.5).to(torch.bfloat16) / 128,
        bits=4,
        group_size=GROUP,
    )


def ours(name: str, weight: QuantizedWeight) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a layer calls, with the weight in the layout of one provider."""
    shape = Shape.of(weight)
    packed = providers.named(name).pack(weight)
    sizes = (shape.bits, shape.group_size, shape.in_features, shape.out_features, name)
    return lambda x: linear(x, packed, sizes)


def torchs(weight: QuantizedWeight, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """torch's int4 kernel on the same weight, called as torch's own quantisers call it."""
    words = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
        weight.values().t().to(torch.int32).contiguous(), 1
    )
    scales = weight.scales.to(torch.float32)
    pairs = torch.stack([scales, (8 - weight.zeros().to(torch.float32)) * scales], 2).to(dtype)
    return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, words, GROUP, pairs)


def ways(k: int, n: int, dtype: torch.dtype, names: list[str]) -> dict[str, list[Any]]:
    """Every way to multiply, each with several weights."""
    copies = max(2, ALIKE // (2 * k * n) + 1)
    weights = [weight_of(k, n, seed) for seed in range(copies)]
    made: dict[str, list[Any]] = {"dense": []}
    for weight in weights:
        linear = weight.dequantize(torch.float32).t().contiguous().to(dtype)
        made["dense"].append(lambda x, w=linear: torch.nn.functional.linear(x, w))
    made["torch int4"] = [torchs(weight, dtype) for weight in weights]
    for name in names:
        if providers.named(name).refuses(weights[0], torch.device("cpu")) is None:
            made[name] = [ours(name, weight) for weight in weights]
    return made


def timed(calls: Mapping[str, list[Call]], rounds: int, least: bool) -> dict[str, float]:
    """Milliseconds of each way over `rounds`, in which each takes its turn."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, several in calls.items():
            call = several[turn % len(several)]
            begin = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - begin)
    chosen = min if least else statistics.median
    return {name: 1e3 * chosen(times[2:]) for name, times in spent.items()}


def with_gradient(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Call:
    """Forward and dX."""

    def both() -> torch.Tensor:
        leaf = x.detach().requires_grad_()
        y = layer(leaf)
        (dx,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
        return dx

    return both


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative to the norm."""
    return float((found.double() - exact).norm() / exact.norm())


def measure(
    k: int, n: int, dtype: torch.dtype, names: list[str], options: argparse.Namespace
) -> list[Any]:
    """A row for each M and work, with every way's time and error."""
    layers = ways(k, n, dtype, names)
    exact = weight_of(k, n, 0).dequantize(torch.float64)
    rows = []
    for count, work in itertools.product(ROWS, ("forward", "forward + dX")):
        if work != "forward" and count < 128:
            continue
        x = torch.randn(count, k, generator=torch.Generator().manual_seed(count)).to(dtype)
        calls: dict[str, list[Call]] = {}
        for name, several in layers.items():
            if work == "forward":
                calls[name] = [functools.partial(one, x) for one in several]
            elif name != "torch int4":
                calls[name] = [with_gradient(one, x) for one in several]
        right = x.double() @ exact
        errors = {name: error(several[0](x), right) for name, several in layers.items()}
        rows.append(
            {
                "M": count,
                "work": work,
                "ms": timed(calls, options.rounds, options.least),
                "errors": errors,
            }
        )
        print(f"  M={count}, {work}", file=sys.stderr, flush=True)
    return rows


def table(rows: list[Any], names: list[str]) -> str:
    """Times, and ours as a multiple of torch's int4 kernel and of the dense product."""
    columns = ["dense", "torch int4", *names]
    lines = [
        "| M | work | " + " | ".join(f"{name}, ms" for name in columns) + " | best of ours / int4 "
        "| best of ours / dense | error |",
        "|" + "---|" * (len(columns) + 5),
    ]
    for row in rows:
        spent = row["ms"]
        name = min((one for one in names if one in spent), key=lambda one: spent[one])
        cells = [f"{spent[one]:.2f}" if one in spent else "" for one in columns]
        for other in ("torch int4", "dense"):
            cells.append(f"{spent[name] / spent[other]:.2f}" if other in spent else "")
        lines.append(
            f"| {row['M']} | {row['work']} | {' | '.join(cells)} | {row['errors'][name]:.1e} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", default="4096x4096", help="input x output features")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--least", action="store_true", help="the least of the rounds, on a machine that is shared"
    )
    parser.add_argument("--also-torch", action="store_true", help="time accel_torch as well")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    k, n = (int(size) for size in options.size.split("x"))
    names = ["torch_int4", *(["torch"] if options.also_torch else [])]
    rows = measure(k, n, getattr(torch, options.dtype), names, options)
    if options.json:
        print(json.dumps({"size": options.size, "dtype": options.dtype, "rows": rows}, indent=2))
        return
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{options.size}, {options.dtype}, torch {torch.__version__}, {capability}, "
          f"{options.threads} threads\n\n{table(rows, names)}")  # fmt: skip


if __name__ == "__main__":
    main()
