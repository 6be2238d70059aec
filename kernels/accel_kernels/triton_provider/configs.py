"""How a multiplication is cut: shipped defaults by family of devices, and candidates for tuning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

from accel_kernels.triton_provider.layout import PADDING, chunk_inputs

Product = Literal["forward", "backward"]
M_CLASSES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
MOST_SPLITS = 16

KIB = 1024
SHARED_LIMITS = {
    "sm_80": 163 * KIB, "sm_86": 99 * KIB, "sm_87": 163 * KIB, "sm_89": 99 * KIB,
    "sm_90": 227 * KIB, "sm_100": 227 * KIB, "sm_103": 227 * KIB, "sm_120": 99 * KIB,
    "sm_121": 99 * KIB, "gfx950": 160 * KIB,
}  # fmt: skip
"""Shared memory a program may take; 64 KiB for every other gfx, 99 for every other sm."""


def shared_limit(arch: str) -> int:
    """Bytes of shared memory that a program may take on `arch`."""
    return SHARED_LIMITS.get(arch, (64 if arch.startswith("gfx") else 99) * KIB)


@dataclasses.dataclass(frozen=True)
class Config:
    """`slab` > 0: dequantise that many features at a time and let the BLAS multiply; else fused.

    `post`: multiply by the scales after the sum over a tile, which must lie in one group.
    `splits`: programs that share a tile's sum; 0 lets the device's size decide.
    """

    block_m: int = 16
    block_n: int = 128
    block_k: int = 128
    splits: int = 0
    warps: int = 4
    stages: int = 4
    post: bool = False
    slab: int = 0


@dataclasses.dataclass(frozen=True)
class Problem:
    """What decides a Config. `group` 0 is one group for all of K; `m_class` is M rounded up."""

    product: Product
    arch: str
    processors: int
    bits: int
    group: int
    in_features: int
    out_features: int
    m_class: int
    dtype: str

    @property
    def key(self) -> str:
        """A name for the cache on disk."""
        return ":".join(str(value) for value in dataclasses.astuple(self))


def m_class(m: int) -> int:
    """The smallest class that holds M; the largest for every M beyond it."""
    return next((size for size in M_CLASSES if m <= size), M_CLASSES[-1])


def family(arch: str) -> str:
    """The table that an architecture is served by."""
    if arch in ("sm_90",):
        return "hopper"
    if arch in ("sm_100", "sm_103"):
        return "blackwell"
    if arch.startswith("sm_"):
        return "ampere"
    if arch.startswith(("gfx9", "gfx936", "gfx938", "gfx928")):
        return "cdna"
    return "rdna"


# Fused up to these M; beyond, dequantising once costs less than expanding in every tile.
_FUSED = {
    "forward": {"hopper": 1024, "blackwell": 256, "ampere": 512, "cdna": 512, "rdna": 512},
    "backward": {"hopper": 256, "blackwell": 128, "ampere": 256, "cdna": 256, "rdna": 256},
}
_SLAB = {"forward": 8192, "backward": 2048}


def default(problem: Problem) -> Config:
    """The shipped choice: measured on an H100 for Hopper, reasoned from that for the others."""
    kind = family(problem.arch)
    if problem.dtype == "float32" or problem.m_class > _FUSED[problem.product][kind]:
        return Config(slab=_SLAB[problem.product])
    config = _backward(problem, kind) if problem.product == "backward" else _forward(problem, kind)
    return fitted(problem, config)


def _forward(problem: Problem, kind: str) -> Config:
    m = problem.m_class
    if kind == "rdna":
        crowded = problem.bits == 2 and m > 16  # gfx1100 spills with four warps
        return Config(block_m=min(max(m, 16), 32), block_n=64, block_k=64, stages=2,
                      warps=8 if crowded else 4, post=m <= 16)  # fmt: skip
    if kind == "cdna":
        return Config(block_m=min(max(m, 16), 64), block_n=64, stages=2, post=m <= 16)
    if m <= 32:
        narrow = m > 16 and kind == "ampere"  # else sm_86 and sm_89 spill; with it, sm_100 does
        return Config(block_m=max(m, 8), block_n=64, block_k=64 if narrow else 128, stages=3,
                      post=True)  # fmt: skip
    if kind != "hopper":
        four = m <= 64 and kind == "ampere"  # sm_100 spills with groups of 32
        return Config(block_m=64, block_k=64, warps=4 if four else 8, stages=3)
    if m <= 64 and problem.out_features >= 128 * problem.processors:
        return Config(block_m=64, block_k=64, stages=4, splits=2)
    if m <= 64:
        return Config(block_m=64, block_n=64, stages=3, post=True)
    if m <= 256 or problem.bits != 4 or not problem.group:  # else the largest tile spills
        return Config(block_m=128, block_n=64, block_k=64, stages=4)
    return Config(block_m=128, stages=3, splits=1)


def _backward(problem: Problem, kind: str) -> Config:
    m = min(max(problem.m_class, 16), 64)
    if kind in ("rdna", "cdna"):
        return Config(block_m=min(m, 32), block_n=64, block_k=64, stages=2)
    if kind == "hopper" and problem.m_class > 64:
        return Config(block_m=128, block_n=64, block_k=64, stages=3)
    if kind == "hopper":
        return Config(block_m=m, warps=8, stages=3)
    return Config(block_m=m, block_n=64, warps=8, stages=3)


def fitted(problem: Problem, config: Config) -> Config:
    """`config` with what this problem does not allow put right, and `splits` decided."""
    if config.slab:
        return config
    chunk = chunk_inputs(problem.bits)
    block_k = max(config.block_k, chunk)
    if problem.group and problem.group % block_k and problem.group % chunk == 0:
        while block_k > chunk and problem.group % block_k:
            block_k //= 2
    one_group = problem.group == 0 or problem.group % block_k == 0
    post = config.post and one_group and problem.product == "forward"
    config = dataclasses.replace(config, block_k=block_k, post=post)
    if config.splits:
        return config
    return dataclasses.replace(config, splits=_splits(problem, config))


def _splits(problem: Problem, config: Config) -> int:
    """Splits that fill the processors: a model of the time, in steps of a tile.

    A program starts in about three steps' time; what a split writes and another reads again costs
    as many steps as it has bytes. It agrees with measurements on an H100 within a few per cent.
    """
    forward = problem.product == "forward"
    across, along = (
        (config.block_n, config.block_k) if forward else (config.block_k, config.block_n)
    )
    reduced, produced = (
        (problem.in_features, problem.out_features)
        if forward
        else (problem.out_features, problem.in_features)
    )
    tiles = math.ceil(produced / across) * math.ceil(problem.m_class / config.block_m)
    steps = math.ceil(reduced / along)
    at_once = 6 if config.block_m <= 16 else 3 if config.block_m <= 64 else 2
    slots = problem.processors * max(1, at_once * 4 // config.warps)
    traffic = across * config.block_m * 8 / (along * (across / 2 + config.block_m * 2))

    def cost(splits: int) -> float:
        rounds = math.ceil(tiles * splits / slots)
        summing = 0.0 if splits == 1 else traffic
        return rounds * (math.ceil(steps / splits) + 3.0 + summing) + splits * summing / 2

    return min(range(1, min(MOST_SPLITS, steps) + 1), key=cost)


def allowed(problem: Problem, config: Config) -> bool:
    """Whether the kernels can run `config` on this problem at all."""
    if config.slab:
        return True
    padded = -(-problem.out_features // PADDING) * PADDING
    k_padded = -(-problem.in_features // PADDING) * PADDING
    return padded % config.block_n == 0 and k_padded % config.block_k == 0


def candidates(problem: Problem) -> Iterator[Config]:
    """What tuning tries, the shipped choice first."""
    seen: set[Config] = set()
    for config in (default(problem), *_grid(problem)):
        fit = fitted(problem, config)
        for splits in sorted({1, max(1, fit.splits // 2), fit.splits, fit.splits * 2}):
            varied = fit if fit.slab else dataclasses.replace(fit, splits=splits)
            if varied not in seen and allowed(problem, varied):
                seen.add(varied)
                yield varied


def _grid(problem: Problem) -> Iterator[Config]:
    m, backward = problem.m_class, problem.product == "backward"
    if problem.dtype == "float32" or m >= 256:
        for slab in (1024, 2048, 4096, 8192, 1 << 30):
            yield Config(slab=slab)
    if problem.dtype == "float32" or m > (512 if backward else 4096):
        return
    sizes = (
        [max(m, 16 if backward else 8)] if m <= 64 else [64, 128, 256] if m <= 256 else [128, 256]
    )
    for block_m in sizes:
        for block_n, block_k, warps in _SMALL_TILES if m <= 16 else _TILES:
            for stages in (3, 4):
                yield Config(block_m=block_m, block_n=block_n, block_k=block_k, warps=warps,
                             stages=stages, post=block_m <= 64)  # fmt: skip


_TILES = ((128, 128, 4), (64, 128, 4), (128, 64, 4), (128, 64, 8), (128, 128, 8), (64, 64, 4))
_SMALL_TILES = ((64, 128, 4), (64, 256, 4), (128, 128, 4), (64, 64, 4), (128, 64, 4))
