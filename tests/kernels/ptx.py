"""Runs PTX on the CPU: enough of it for the project's kernels, to see their numbers without a GPU.

Every thread is a Python generator made from the PTX text, with registers as local variables; a
thread stops at whatever it must do with others (mma.sync, barriers) and `run` goes on when all are
there. Memory is checked: reads and writes out of bounds, shared memory used before it is written
(it holds NaNs), asynchronous copies read before they were waited for, and global memory read before
griddepcontrol.wait where a kernel has one.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch

M32 = 0xFFFFFFFF
NAN = float("nan")
WIDTH = {f"{kind}{bits}": bits // 8 for kind in "ubsf" for bits in (8, 16, 32, 64)}
with np.errstate(invalid="ignore"):  # signalling NaNs
    HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64).tolist()
    _SHIFTED = np.arange(1 << 16, dtype=np.uint32) << 16
    BFLOAT = _SHIFTED.view(np.float32).astype(np.float64).tolist()
Event = tuple[Any, ...]


class Fault(AssertionError):
    """The kernel did what no kernel may do."""


def f32(value: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float32(value))


def bits_of(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def float_of(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits & M32))[0])


def signed(value: int, bits: int = 32) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def quotient(a: int, b: int) -> int:
    """a / b rounded towards zero, as machines divide."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def remainder(a: int, b: int) -> int:
    return a - quotient(a, b) * b


def to_half(value: float) -> int:
    with np.errstate(all="ignore"):
        return int(np.float16(value).view(np.uint16))


def to_bfloat(value: float) -> int:
    bits = bits_of(f32(value))
    if value != value:
        return 0x7FFF
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 & 0xFFFF


def fma2(a: int, b: int, c: int, bfloat: bool) -> int:
    table, back = (BFLOAT, to_bfloat) if bfloat else (HALF, to_half)
    low = back(table[a & 0xFFFF] * table[b & 0xFFFF] + table[c & 0xFFFF])
    return low | back(table[a >> 16] * table[b >> 16] + table[c >> 16]) << 16


def lop3(a: int, b: int, c: int, table: int) -> int:
    out = 0
    for index in range(8):
        if table >> index & 1:
            term = (a if index & 4 else ~a) & (b if index & 2 else ~b) & (c if index & 1 else ~c)
            out |= term
    return out & M32


def prmt(a: int, b: int, selector: int) -> int:
    pool = (a | b << 32).to_bytes(8, "little")
    chosen = []
    for place in range(4):
        nibble = selector >> (4 * place) & 15
        byte = pool[nibble & 7]
        chosen.append((0xFF if byte & 0x80 else 0) if nibble & 8 else byte)
    return int.from_bytes(bytes(chosen), "little")


def bfi(a: int, b: int, start: int, length: int) -> int:
    mask = ((1 << length) - 1) << start
    return (b & ~mask | a << start & mask) & M32


class Memory:
    """Tensors at addresses of their own; an address is a segment's number and an offset."""

    def __init__(self) -> None:
        self.segments: list[np.ndarray[Any, Any]] = []

    def place(self, tensor: torch.Tensor) -> int:
        assert tensor.is_contiguous()
        self.segments.append(tensor.view(-1).view(torch.uint8).numpy())
        return len(self.segments) << 32

    def part(self, address: int, size: int) -> np.ndarray[Any, Any]:
        number, offset = (address >> 32) - 1, address & M32
        if address % size or not 0 <= number < len(self.segments):
            raise Fault(f"{size} bytes at {address:#x}: misaligned, or nothing is there")
        if offset + size > len(self.segments[number]):
            raise Fault(f"{size} bytes at {offset} of tensor {number}: out of bounds")
        return self.segments[number][offset : offset + size]


class Block:
    """One block's shared memory, and its cluster's."""

    def __init__(
        self, memory: Memory, shared_bytes: int, cluster: list[Block], waits: bool
    ) -> None:
        self.memory, self.cluster, self.waits = memory, cluster, waits
        self.shared = np.full(shared_bytes, 0xFF, dtype=np.uint8)

    def thread(self) -> Thread:
        return Thread(self)


class Thread:
    """What a generated thread calls."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.may_read = not block.waits
        self.groups: list[list[tuple[int, int, int, int]]] = [[]]

    def load(self, address: int, width: int, count: int) -> list[int]:
        if not self.may_read:
            raise Fault("global memory is read before griddepcontrol.wait")
        raw = self.block.memory.part(address, width * count).tobytes()
        return [int.from_bytes(raw[i : i + width], "little") for i in range(0, len(raw), width)]

    def store(self, address: int, width: int, value: int) -> None:
        raw = value.to_bytes(8, "little")[:width]
        self.block.memory.part(address, width)[:] = np.frombuffer(raw, dtype=np.uint8)

    def _own(self, address: int, size: int) -> np.ndarray[Any, Any]:
        shared = self.block.shared
        if address >> 24:
            shared, address = self.block.cluster[(address >> 24) - 1].shared, address & 0xFFFFFF
        if address % size or address + size > len(shared):
            raise Fault(f"{size} bytes at {address} of shared memory: misaligned or out of bounds")
        return shared[address : address + size]

    def load_shared(self, address: int, width: int, count: int) -> list[int]:
        raw = self._own(address, width * count).tobytes()
        return [int.from_bytes(raw[i : i + width], "little") for i in range(0, len(raw), width)]

    def store_shared(self, address: int, width: int, value: int) -> None:
        raw = value.to_bytes(8, "little")[:width]
        self._own(address, width)[:] = np.frombuffer(raw, dtype=np.uint8)

    def copy(self, to: int, source: int, size: int, read: int | None = None) -> None:
        if not self.may_read:
            raise Fault("global memory is read before griddepcontrol.wait")
        self._own(to, size)[:] = 0xFF
        self.groups[-1].append((to, source, size, size if read is None else read))

    def commit(self) -> None:
        self.groups.append([])

    def wait(self, left: int) -> None:
        while len(self.groups) - 1 > left:
            self._land(self.groups.pop(0))

    def wait_all(self) -> None:
        self.wait(0)
        self._land(self.groups[0])
        self.groups = [[]]

    def _land(self, group: list[tuple[int, int, int, int]]) -> None:
        for to, source, size, read in group:
            landed = self._own(to, size)
            landed[:] = 0
            if read:
                landed[:read] = self.block.memory.part(source, read)


def read_matrices(lanes: Sequence[Event]) -> list[tuple[int, ...]]:
    """ldmatrix of one warp: lane 8 i + r names row r of matrix i, as the PTX manual draws it."""
    count = int(lanes[0][1].partition(".x")[2].partition(".")[0])
    rows = [thread.load_shared(address, 4, 4) for _, _, thread, address in lanes[: 8 * count]]
    return [
        tuple(rows[8 * matrix + lane // 4][lane % 4] for matrix in range(count))
        for lane in range(32)
    ]


def exchange(lanes: Sequence[Event]) -> list[int]:
    """shfl.sync.bfly of one warp: each lane has the value of the lane whose number differs so."""
    return [lanes[lane ^ lanes[lane][3]][2] for lane in range(32)]


def mma(lanes: Sequence[Event]) -> list[tuple[float, ...]]:
    """mma.sync.m16n8k16 or m16n8k8 of one warp, fragments as the PTX manual draws them."""
    kind = lanes[0][1]
    table = BFLOAT if "bf16" in kind else HALF
    steps = 2 if "k16" in kind else 1
    a, b, c = np.zeros((16, 8 * steps)), np.zeros((8 * steps, 8)), np.zeros((16, 8))
    for lane, (_, _, words_a, words_b, sums) in enumerate(lanes):
        g, t = lane // 4, lane % 4
        for e in range(2):
            for r, word in enumerate(words_a):
                a[g + 8 * (r % 2), 2 * t + e + 8 * (r // 2)] = table[word >> (16 * e) & 0xFFFF]
            for p, word in enumerate(words_b):
                b[2 * t + e + 8 * p, g] = table[word >> (16 * e) & 0xFFFF]
            for half in range(2):
                c[g + 8 * half, 2 * t + e] = sums[2 * half + e]
    d = (a @ b + c).astype(np.float32).astype(np.float64)
    places = [(lane // 4, 2 * (lane % 4)) for lane in range(32)]
    return [(d[g, n], d[g, n + 1], d[g + 8, n], d[g + 8, n + 1]) for g, n in places]


def advance(threads: list[Generator[Event, Any, None]], answers: list[Any]) -> list[Event | None]:
    events: list[Event | None] = []
    for thread, answer in zip(threads, answers, strict=True):
        try:
            events.append(thread.send(answer))
        except StopIteration:
            events.append(None)
    return events


class Warp:
    """32 threads that have come to the same place."""

    def __init__(self, threads: list[Generator[Event, Any, None]]) -> None:
        self.threads = threads
        self.event: str | None = "start"

    def go(self) -> None:
        """On to the next barrier of the block or the cluster, or to the end."""
        answers: list[Any] = [None] * 32
        while True:
            events = advance(self.threads, answers)
            kinds = {event[:2] if event else None for event in events}
            if len(kinds) != 1:
                raise Fault(f"threads of one warp wait for different things: {kinds}")
            first = events[0]
            self.event = None if first is None else first[0]
            together = {"mma": mma, "ldmatrix": read_matrices, "shfl": exchange}
            if first is not None and first[0] in together:
                answers = list(together[first[0]]([event for event in events if event]))
            elif self.event == "warp":
                answers = [None] * 32
            else:
                return


def run(
    text: str, entry: str, grid: tuple[int, int, int], threads: int, shared_bytes: int,
    arguments: Sequence[torch.Tensor | int | None],
) -> None:  # fmt: skip
    """Launch `entry` of PTX `text`; tensors among the arguments are read and written in place."""
    from ptx_translation import translate

    memory = Memory()
    values = [
        memory.place(value) if isinstance(value, torch.Tensor) else int(value or 0)
        for value in arguments
    ]
    make, cluster_size = translate(text, entry)
    for z in range(grid[2]):
        for x in range(grid[0]):
            for start in range(0, grid[1], cluster_size):
                blocks: list[Block] = []
                teams = []
                for y in range(start, start + cluster_size):
                    block = Block(memory, shared_bytes, blocks, "griddepcontrol.wait" in text)
                    blocks.append(block)
                    made = [make(block.thread(), values, tid, (x, y, z)) for tid in range(threads)]
                    teams.append([Warp(made[i : i + 32]) for i in range(0, threads, 32)])
                _finish(teams)


def _finish(teams: list[list[Warp]]) -> None:
    while True:
        for team in teams:
            while True:
                for warp in team:
                    warp.go()
                reached = {warp.event for warp in team}
                if len(reached) != 1:
                    raise Fault(f"warps of one block wait for different things: {reached}")
                if reached != {"block"}:
                    break
        reached = {team[0].event for team in teams}
        if reached == {None}:
            return
        if reached != {"cluster"}:
            raise Fault(f"blocks of one cluster wait for different things: {reached}")
