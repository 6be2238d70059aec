"""The CUDA provider on the GPU that is here: right first, then microseconds.

    python benchmarks/cuda_kernels.py [--rows 1,8,16,32,64] [--json FILE]

Weights are rotated over several times the L2 cache; times are medians of CUDA graph replays, with
bf16 activations and groups of 128. Each result is compared with float64 before it is timed.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import accel_kernels.cuda_provider.provider  # noqa: F401 - registers itself
from accel_kernels import providers
from accel_kernels.cuda_provider import layout, planning
from accel_kernels.formats import from_values
from accel_kernels.providers import Shape

LAYERS = {
    "7B gate_up": (3584, 37888),
    "7B down": (18944, 3584),
    "7B qkv": (3584, 4608),
    "8B o": (4096, 4096),
    "72B gate_up": (8192, 59136),
    "72B down": (29568, 8192),
    "72B o": (8192, 8192),
}
GROUP = 128
TOLERANCE = 6e-3
ROTATED_BYTES = 300e6
REPLAYS = 21


def median_microseconds(calls: Sequence[Callable[[], object]]) -> float:
    """One call's share of a graph of all of them, the median of REPLAYS."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    pairs = [(torch.cuda.Event(True), torch.cuda.Event(True)) for _ in range(REPLAYS)]
    for begin, end in pairs:
        begin.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    times = sorted(begin.elapsed_time(end) for begin, end in pairs)
    return times[REPLAYS // 2] / len(calls) * 1e3


def read_rate() -> float:
    """Bytes a second at which this GPU reads: the sum of 2 GiB of float32."""
    data = torch.randn(1 << 29, device="cuda")
    return data.numel() * 4 / median_microseconds([data.sum] * 3) * 1e6


def random_packed(shape: Shape, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Other weights of the same layer: every word is a legal one."""
    words, zeros, scales = (torch.empty_like(tensor) for tensor in like[:3])
    for tensor in (words, zeros):
        tensor.random_(-(1 << 31), (1 << 31) - 1)
    return [words, zeros, scales.uniform_(0.002, 0.02)]


def time_layer(name: str, rows: Sequence[int], rate: float) -> list[dict[str, object]]:
    """Check and time one layer for each number of rows."""
    k, n = LAYERS[name]
    provider = providers.named("cuda")
    weight = from_values(
        torch.randint(0, 16, (k, n), device="cuda", dtype=torch.uint8),
        torch.randint(0, 16, (k // GROUP, n), device="cuda", dtype=torch.uint8),
        torch.rand(k // GROUP, n, device="cuda").mul(0.018).add(0.002).bfloat16(),
        bits=4,
        group_size=GROUP,
    )
    shape, packed = Shape.of(weight), layout.pack(weight)
    exact = weight.dequantize(torch.float32)
    moved = sum(tensor.numel() * tensor.element_size() for tensor in packed)
    sets = [packed, *(random_packed(shape, packed) for _ in range(int(ROTATED_BYTES / moved) + 1))]
    found: list[dict[str, object]] = []
    for m in rows:
        x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
        expected = x.double() @ exact.double()
        difference = provider.forward(x, packed, shape).double() - expected
        error = float(difference.norm() / expected.norm())
        assert error < TOLERANCE, f"{name}, {m} rows: off by {error:.1e}"
        calls = [functools.partial(provider.forward, x, one, shape) for one in sets]
        micros = median_microseconds(calls)
        floor = (moved + 2 * m * (k + n)) / rate * 1e6
        cut = planning.choose(shape, m, packed[2].dtype, planning.gpu(0))
        row = {"layer": name, "rows": m, "us": micros, "of limit": floor / micros, "error": error}
        print(f"{name:12} M={m:<4} {micros:8.2f} us  {floor / micros:6.1%}  {error:.1e}  {cut}")
        found.append(row)
    return found


def main() -> None:
    """Time every layer and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1,8,16,32,64")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rate = read_rate()
    print(
        f"{torch.cuda.get_device_name()}: reads {rate / 1e12:.2f} TB/s, torch {torch.__version__}"
    )
    rows = [int(count) for count in given.rows.split(",")]
    results = [row for name in LAYERS for row in time_layer(name, rows, rate)]
    if given.json:
        given.json.write_text(json.dumps({"bytes a second": rate, "results": results}, indent=1))


if __name__ == "__main__":
    main()
