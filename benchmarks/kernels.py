"""Times y = x W and its dX with 4-bit weights, ours beside the peers, on the GPU that is there.

    python benchmarks/kernels.py --out results          # the table, JSON and plot of a whole run
    python benchmarks/kernels.py --tune --out results   # first measure every configuration of ours

Weights rotate over several times the L2 cache, so that each call reads its own from memory; times
are medians of CUDA-graph replays; every result is first compared with float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peers
import torch
import tune

from accel_kernels.formats import QuantizedWeight, from_values

# This file would hide a package that other libraries import; installed packages come first.
sys.path.append(sys.path.pop(0))

SHAPES = {
    "7b.qkv": (3584, 4608),
    "7b.gate_up": (3584, 37888),
    "7b.down": (18944, 3584),
    "8b.o": (4096, 4096),
    "72b.qkv": (8192, 10240),
    "72b.down": (29568, 8192),
}
ROWS = (1, 16, 64, 256, 1024, 4096)
GROUP = 128
TOLERANCE = 1e-2
L2_MULTIPLE = 4
DTYPE = torch.bfloat16


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """What this device does at most, measured: bytes/s read, and operations/s."""

    read: float
    operations: float


@dataclasses.dataclass(frozen=True)
class Result:
    """One time. `limit` is what the ceilings allow, `error` relative to float32."""

    shape: str
    rows: int
    work: str
    name: str
    microseconds: float
    limit: float
    error: float | None


def replayed(calls: Sequence[Callable[[], Any]], repeats: int = 15) -> float:
    """Microseconds of one of `calls`, run one after another in a CUDA graph; the median."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    for _ in range(2):
        graph.replay()
    samples = []
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        samples.append(start.elapsed_time(stop))
    graph.reset()
    return statistics.median(samples) * 1e3 / len(calls)


def ceilings() -> Ceilings:
    """Reads of 2 GiB, and a large matrix product in the dtype of the activations."""
    large = torch.empty(1 << 29, dtype=torch.float32, device="cuda").normal_()
    reading = large.numel() * 4 / replayed([large.sum]) * 1e6
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=DTYPE) for _ in range(2))
    multiplying = 2 * 8192**3 / replayed([lambda: a @ b]) * 1e6
    return Ceilings(reading, multiplying)


def random_weight(inputs: int, outputs: int, seed: int) -> QuantizedWeight:
    """Uniform q, z and scales about the size of a trained layer's."""
    made = torch.Generator("cuda").manual_seed(seed)
    options: dict[str, Any] = {"device": "cuda", "generator": made}
    groups = inputs // GROUP
    return from_values(
        torch.randint(0, 16, (inputs, outputs), dtype=torch.uint8, **options),
        torch.randint(0, 16, (groups, outputs), dtype=torch.uint8, **options),
        (torch.rand(groups, outputs, **options) * 0.02 + 0.002).to(torch.float16),
        bits=4,
        group_size=GROUP,
    )


def limit(inputs: int, outputs: int, rows: int, products: int, most: Ceilings) -> float:
    """Microseconds that no implementation can beat: bytes at 4.16 bits a weight, operations."""
    weight = inputs * outputs // 2 + inputs // GROUP * outputs * 5 // 2
    moved = products * (weight + 2 * rows * (inputs + outputs))
    operations = products * 2 * rows * inputs * outputs
    return max(moved / most.read, operations / most.operations) * 1e6


def build_sets(
    name: str, build: peers.Build, shape: tuple[int, int], count: int
) -> list[peers.Built]:
    """`count` weights in the hands of one implementation; [] and the reason printed where not."""
    built = []
    try:
        for seed in range(count):
            weight = random_weight(*shape, seed)
            built.append(build(weight, weight.dequantize(DTYPE), DTYPE))
            del weight
    except Exception as error:  # noqa: BLE001 - a peer that cannot run here is a line, not an end
        print(f"  {name} left out: {type(error).__name__}: {str(error)[:160]}", flush=True)
        return []
    return built


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm; not a number is infinitely wrong."""
    error = float((found.float() - expected).norm() / expected.norm())
    return error if error == error else float("inf")


def measure(
    label: str, built: list[peers.Built], name: str, rows: Sequence[int], most: Ceilings
) -> list[Result]:
    """Forward, and forward with dX where there is one, for each number of rows."""
    inputs, outputs = SHAPES[label]
    exact = random_weight(inputs, outputs, 0).dequantize(torch.float32)
    results = []
    for count in rows:
        x = torch.randn(count, inputs, device="cuda", dtype=DTYPE)
        dy = torch.randn(count, outputs, device="cuda", dtype=DTYPE)
        error = backward_error = None
        try:
            if built[0].exact:
                error = relative(built[0].forward(x), x.float() @ exact)
            calls = [lambda one=one, x=x: one.forward(x) for one in built]
            us = replayed(calls)
            floor = limit(inputs, outputs, count, 1, most)
            results.append(Result(label, count, "forward", name, us, floor, error))
            if built[0].backward is None or count < 64:
                continue
            if built[0].exact:
                backward_error = relative(built[0].backward(dy), dy.float() @ exact.t())
            both = [lambda one=one, x=x, dy=dy: (one.forward(x), one.backward(dy)) for one in built]
            us = replayed(both)
            floor = limit(inputs, outputs, count, 2, most)
            results.append(Result(label, count, "forward+dX", name, us, floor, backward_error))
        except Exception as failure:  # noqa: BLE001 - as in build_sets
            print(f"  {name} M={count}: {type(failure).__name__}: {str(failure)[:160]}", flush=True)
    return results


def table(results: Sequence[Result]) -> str:
    """Markdown: a row for each shape, work and M, a column for each implementation."""
    names = list(dict.fromkeys(result.name for result in results))
    lines = [
        "| shape | work | M | limit us | " + " | ".join(names) + " | best of ours / best peer |",
        "|" + "---|" * (5 + len(names)),
    ]
    for key in dict.fromkeys((result.shape, result.work, result.rows) for result in results):
        group = {r.name: r for r in results if (r.shape, r.work, r.rows) == key}
        cells = [cell(group.get(name)) for name in names]
        mine = [r.microseconds for name, r in group.items() if name.startswith("ours")]
        theirs = [r.microseconds for name, r in group.items() if not name.startswith("ours")]
        ratio = f"{min(mine) / min(theirs):.2f}" if mine and theirs else ""
        floor = next(iter(group.values())).limit
        lines.append(
            f"| {key[0]} | {key[1]} | {key[2]} | {floor:.1f} | {' | '.join(cells)} | {ratio} |"
        )
    return "\n".join(lines)


def cell(result: Result | None) -> str:
    """Microseconds, the share of the limit, and a mark where the result is wrong."""
    if result is None:
        return ""
    wrong = result.error is not None and result.error > TOLERANCE
    return f"{result.microseconds:.1f} ({result.limit / result.microseconds:.0%})" + (
        f" WRONG {result.error:.0e}" if wrong else ""
    )


def plot(results: Sequence[Result], title: str, folder: Path) -> None:
    """Share of the limit against M, a panel for each shape; SVG and PNG."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        print(f"no plot: {error}")
        return
    forward = [result for result in results if result.work == "forward"]
    shapes = list(dict.fromkeys(result.shape for result in forward))
    figure, panels = pyplot.subplots(
        1, len(shapes), figsize=(4.2 * len(shapes), 4.2), sharey=True, squeeze=False
    )
    for panel, shape in zip(panels[0], shapes, strict=True):
        for name in dict.fromkeys(result.name for result in forward):
            line = [r for r in forward if r.shape == shape and r.name == name]
            style: dict[str, Any] = (
                {"linewidth": 2.5} if name.startswith("ours") else {"alpha": 0.7}
            )
            panel.plot([r.rows for r in line], [r.limit / r.microseconds for r in line],
                       marker="o", label=name, **style)  # fmt: skip
        panel.set_xscale("log", base=2)
        panel.set(title=f"{shape} {SHAPES[shape]}", xlabel="M", ylim=(0, 1.1))
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("fraction of the limit")
    panels[0][-1].legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    for kind in ("svg", "png"):
        figure.savefig(folder / f"kernels.{kind}", dpi=110)


def main() -> int:
    """Measure, print and write."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    words.add_argument("--shapes", default=",".join(SHAPES), help="names, comma-separated")
    words.add_argument("--rows", default=",".join(map(str, ROWS)), help="values of M")
    words.add_argument("--peers", default=None, help="names to measure; default all")
    words.add_argument("--vllm-library", default=None, help="library of vLLM's operators")
    words.add_argument("--tune", action="store_true", help="measure every configuration first")
    words.add_argument("--log", help="file for what tuning measured")
    words.add_argument("--out", default="results", help="folder for JSON, table and plot")
    asked = words.parse_args()
    if not torch.cuda.is_available():
        print("no GPU that torch can use: nothing to measure", file=sys.stderr)
        return 1
    for provider in ("triton_provider", "cuda_provider"):
        try:
            importlib.import_module(f"accel_kernels.{provider}")
        except ImportError as error:
            print(f"  {provider}: {error}")
    folder = Path(asked.out)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [int(row) for row in asked.rows.split(",")]
    shapes = asked.shapes.split(",")
    if asked.log:
        logging.basicConfig(filename=asked.log, level=logging.WARNING)
        logging.getLogger("accel").setLevel(logging.DEBUG)
    if asked.tune:
        os.environ["ACCEL_TRITON_TUNE"] = "1"
        tune.prepare([SHAPES[name] for name in shapes], rows, GROUP, DTYPE)
    device = torch.cuda.get_device_properties(0)
    most = ceilings()
    title = (
        f"{device.name}, torch {torch.__version__}, {str(DTYPE)[6:]}, group size {GROUP}; "
        f"measured: read {most.read / 1e12:.2f} TB/s, matmul {most.operations / 1e12:.0f} TFLOP/s"
    )
    print(title, flush=True)
    results: list[Result] = []
    for label in shapes:
        began = time.perf_counter()
        inputs, outputs = SHAPES[label]
        count = max(2, -(-L2_MULTIPLE * device.L2_cache_size // (inputs * outputs // 2)) + 1)
        for name, build in peers.known(asked.vllm_library):
            if asked.peers and name not in asked.peers.split(","):
                continue
            built = build_sets(name, build, (inputs, outputs), count)
            if built:
                results += measure(label, built, name, rows, most)
            del built
            torch.cuda.empty_cache()
        print(f"  {label}: {count} sets, {time.perf_counter() - began:.0f} s", flush=True)
        records = [dataclasses.asdict(result) for result in results]
        text = json.dumps({"title": title, "results": records}, indent=1)
        (folder / "kernels.json").write_text(text)
        (folder / "kernels.md").write_text(f"{title}\n\n{table(results)}\n")
    plot(results, title, folder)
    print(table(results))
    return int(any(r.error is not None and r.error > TOLERANCE for r in results))


if __name__ == "__main__":
    raise SystemExit(main())
