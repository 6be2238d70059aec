"""Which Config a call gets: what was measured on this device, else the shipped default.

`ACCEL_TRITON_TUNE=1` measures whatever has not been measured yet at its first call; results stay in
accel's private cache on disk, by device, versions, shape, class of M and dtype. What is found there
is taken only if it is one of the ways that tuning itself would try: a file that was damaged, or
copied from another device, costs speed and never a result.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import logging
import os
from collections.abc import Callable
from typing import Any

import torch

from accel.caching import DiskCache, Entries, default_folder
from accel.values import Level
from accel_kernels.telling import tell
from accel_kernels.triton_provider.configs import Config, Problem, candidates, default

TUNE = "ACCEL_TRITON_TUNE"
REVISION = 1
"""Raise when a change to the kernels makes measurements void."""
AGAIN = f"{TUNE}=1"
SAMPLES = 5
FLUSHED = 256 << 20
"""Bytes written before each sample, more than any device's L2 cache holds."""

logger = logging.getLogger("accel")
_chosen: dict[Problem, Config] = {}


def chosen(problem: Problem, run: Callable[[Config], Any]) -> Config:
    """The Config for `problem`; `run` does its work once, with the Config it is given."""
    config = _chosen.get(problem)
    if config is None:
        config = _recall(problem)
        if config is None and os.environ.get(TUNE) == "1" and _may_measure():
            config = _measure(problem, run)
            _keep(problem, config)
        config = config or default(problem)
        _chosen[problem] = config
    return config


def forget() -> None:
    """Ask the disk, and the environment, again."""
    _chosen.clear()


class Measurements(DiskCache):
    """The cache of configurations, which says so where a file of them is none."""

    def no_configuration(self, key: str) -> None:
        """Say that what stands under `key` is not of this program."""
        message = f"what {self.folder} holds for {key} is no configuration; the shipped one serves"
        self._note(message, AGAIN, Level.INFO)

    def _parse(self, raw: bytes) -> Entries:
        entries = super()._parse(raw)
        if raw and not entries:
            message = (
                f"the configurations measured in {self.folder} are damaged; shipped ones serve"
            )
            self._note(message, AGAIN, Level.INFO)
        return entries


@functools.lru_cache(maxsize=1)
def _cache() -> Measurements:
    return Measurements(default_folder(os.environ.get), tell)


@functools.lru_cache(maxsize=1)
def _name() -> str:
    """A file of its own for each set of versions whose times cannot be compared."""
    versions = [importlib.metadata.version(name) for name in ("triton", "torch")]
    return "triton-" + "-".join([str(REVISION), *versions]).replace("+", "_")


def _recall(problem: Problem) -> Config | None:
    cache = _cache()
    entry = cache.load(_name()).get(problem.key)
    if entry is None:
        return None
    known = (config for config in candidates(problem) if dataclasses.asdict(config) == entry)
    config = next(known, None)
    if config is None:
        cache.no_configuration(problem.key)
    return config


def _keep(problem: Problem, config: Config) -> None:
    cache = _cache()
    with cache.lock(_name(), 10.0):
        cache.update(_name(), {problem.key: dataclasses.asdict(config)})


def _may_measure() -> bool:
    return torch.cuda.is_available() and not torch.cuda.is_current_stream_capturing()


def _measure(problem: Problem, run: Callable[[Config], Any]) -> Config:
    """The fastest candidate, each from a cold L2 cache."""
    from accel_kernels.triton_provider.launching import CANNOT_RUN

    times: dict[Config, float] = {}
    for config in candidates(problem):
        try:
            times[config] = milliseconds(lambda config=config: run(config))  # type: ignore[misc]
        except CANNOT_RUN as error:
            logger.debug("%s cannot run %s: %s", problem.key, config, error)
    best = min(times, key=lambda config: times[config]) if times else default(problem)
    ranked = sorted(times.items(), key=lambda item: item[1])
    for config, time in ranked:
        logger.debug("%s: %.1f us %s", problem.key, time * 1e3, config)
    logger.info("%s: %.1f us %s", problem.key, ranked[0][1] * 1e3 if ranked else 0.0, best)
    return best


def milliseconds(work: Callable[[], Any]) -> float:
    """The median time of `work` on the current device, its weights not in the L2 cache.

    Replayed from a graph, so that the time to launch does not count.
    """
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    cold = torch.empty(FLUSHED, dtype=torch.int8, device="cuda")
    samples = []
    for _ in range(SAMPLES):
        cold.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        samples.append(start.elapsed_time(stop))
    return float(sorted(samples)[SAMPLES // 2])
