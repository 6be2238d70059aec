"""Compiles, on all processor cores, what tuning is going to measure one by one on the GPU."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import time
from collections.abc import Sequence
from typing import Any

import torch

from accel_kernels.formats import from_values
from accel_kernels.providers import Shape
from accel_kernels.triton_provider import layout, provider
from accel_kernels.triton_provider.configs import Config, Problem, candidates, m_class


def prepare(
    shapes: Sequence[tuple[int, int]], rows: Sequence[int], group: int, dtype: torch.dtype
) -> None:
    """Fill Triton's cache with the kernels of every candidate for these shapes and rows."""
    began = time.perf_counter()
    arch, processors = provider._device(torch.device("cuda", 0))
    wanted: dict[tuple[str, Config], None] = {}
    for inputs, outputs in shapes:
        for count in rows:
            for product in ("forward", "backward") if count >= 64 else ("forward",):
                problem = Problem(
                    product, arch, processors, 4, group, inputs, outputs, m_class(count),
                    str(dtype).removeprefix("torch."),
                )  # fmt: skip
                for config in candidates(problem):
                    if not config.slab:
                        split = dataclasses.replace(config, splits=min(config.splits, 2))
                        wanted[(product, split)] = None
    workers = max(1, (os.cpu_count() or 1) - 2)
    portions = [list(wanted)[start::workers] for start in range(workers)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        failed = sum(pool.map(_compile, portions, [group] * workers, [dtype] * workers))
    seconds = time.perf_counter() - began
    print(f"  {len(wanted)} kernels compiled in {seconds:.0f} s, {failed} cannot run", flush=True)


def _compile(portion: list[tuple[Any, Config]], group: int, dtype: torch.dtype) -> int:
    """Run each on a small weight: the kernels are the same for all shapes. How many failed."""
    inputs, outputs, groups = 4 * group, 512, 4
    weight = from_values(
        torch.zeros(inputs, outputs, dtype=torch.uint8),
        torch.zeros(groups, outputs, dtype=torch.uint8),
        torch.ones(groups, outputs, dtype=torch.float16),
        bits=4,
        group_size=group,
    ).to("cuda")
    call = provider._call(layout.pack(weight), Shape.of(weight), weight.qweight.device)
    from accel_kernels.triton_provider import launching

    failed = 0
    for product, config in portion:
        length = inputs if product == "forward" else outputs
        a = torch.zeros(config.block_m, length, dtype=dtype, device="cuda")
        try:
            provider.multiply(product, a, call, config)
        except launching.CANNOT_RUN:
            failed += 1
    return failed
