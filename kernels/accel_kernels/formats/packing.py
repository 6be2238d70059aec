"""Small unsigned integers in 32-bit words: the one thing all checkpoint formats share.

Value `i` of a run stands at bit `bits * i`, counted from the lowest bit of the first word on; a
3-bit value may straddle two words, so that 32 values take exactly 3 words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

BITS = (2, 3, 4, 8)
WORD = 32
CACHED_WORDS = 1 << 16
"""Words that are rearranged at a time on a processor; eight times as many fit its caches."""


def run_length(bits: int) -> int:
    """The fewest values that fill whole words: 16, 32, 8 or 4 for 2, 3, 4 or 8 bits."""
    return math.lcm(bits, WORD) // bits


def words_for(count: int, bits: int) -> int:
    """Words that `count` values take; the last run is padded with zeros."""
    return -(-count // run_length(bits)) * run_length(bits) * bits // WORD


def unpack(words: torch.Tensor, bits: int, count: int, dim: int) -> torch.Tensor:
    """int32 words -> uint8 values along `dim`, the first `count` of them.

    Raises ValueError where `words` is too short for `count`.
    """
    words = words.movedim(dim, -1).to(torch.int32)
    held = words.shape[-1] * WORD // bits
    if held < count:
        raise ValueError(f"{words.shape[-1]} words hold {held} values of {bits} bits, not {count}")
    mask = (1 << bits) - 1
    if WORD % bits == 0:
        # One field of every word at a time: a layer's values as int32 would take 4 bytes each.
        values = words.new_empty((*words.shape, WORD // bits), dtype=torch.uint8)
        for field in range(WORD // bits):
            values[..., field] = (words >> (field * bits)) & mask
    else:
        values = _straddling(words, bits, mask).to(torch.uint8)
    flat = values.flatten(-2)[..., :count]
    return flat.movedim(-1, dim).contiguous()


def _straddling(words: torch.Tensor, bits: int, mask: int) -> torch.Tensor:
    """Values of a width that does not divide 32, run by run of whole words."""
    per_run = run_length(bits) * bits // WORD
    runs = words.unflatten(-1, (-1, per_run)).to(torch.int64) & 0xFFFFFFFF
    start = torch.arange(run_length(bits), device=words.device) * bits
    word, shift = start // WORD, start % WORD
    low = runs[..., word] >> shift
    following = (word + 1).clamp(max=per_run - 1)
    high = runs[..., following] << (WORD - shift)
    return (low | high) & mask


def pack(values: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Values below 2**bits along `dim` -> int32 words, the last run padded with zeros."""
    moved = values.movedim(dim, -1).to(torch.uint8)
    run = run_length(bits)
    padding = -moved.shape[-1] % run
    padded = torch.nn.functional.pad(moved, (0, padding)) if padding else moved
    runs = padded.unflatten(-1, (-1, run))
    per_run = run * bits // WORD
    words = torch.zeros((*runs.shape[:-1], per_run), dtype=torch.int32, device=values.device)
    for index in range(run):
        word, shift = divmod(index * bits, WORD)
        # Bits that are shifted out at the top belong to the next word.
        words[..., word] |= runs[..., index].to(torch.int32) << shift
        if shift + bits > WORD:
            words[..., word + 1] |= runs[..., index].to(torch.int32) >> (WORD - shift)
    return words.flatten(-2).movedim(-1, dim).contiguous()


def transpose_nibbles(words: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Eight int32 tensors -> eight, nibble i of word j of which was nibble j of word i.

    By whole words, exchanging halves, bytes and nibbles in turn: "Transposing a bit matrix" in
    Warren, Hacker's Delight, of fields of four bits.
    """
    turned = list(words)
    for distance, mask in ((4, 0x0000FFFF), (2, 0x00FF00FF), (1, 0x0F0F0F0F)):
        shift = 4 * distance
        for first in range(8):
            if first & distance:
                continue
            a, b = turned[first], turned[first + distance]
            low = (b & mask).bitwise_left_shift_(shift).bitwise_or_(a & mask)
            high = (a >> shift).bitwise_and_(mask).bitwise_or_(b & ~mask)
            turned[first], turned[first + distance] = low, high
    return turned


def cached_rows(rows: int, columns: int, device: torch.device) -> Iterator[slice]:
    """Pieces of `rows` rows that stay in a processor's cache; on other devices all rows at once."""
    step = max(1, CACHED_WORDS // columns) if device.type == "cpu" else rows
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))
