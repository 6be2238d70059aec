"""The kernels: y = x W, dX = dy W^T and W itself, from packed words.

`linear` puts the weight on the left, y^T = W^T x^T, so that the matrix instruction reads it from
the registers it was expanded in, and so that few rows of x waste nothing. `gradient` contracts over
output features, for which the expanded tile goes through shared memory once.

Splits of the contraction are summed in a fixed order by the program that arrives last, which also
sets the counter of its tile back to 0: the same bits come out every time.
"""

# No annotations on the device functions: Triton would look their names up among its own.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-redef"
# Upper case is known at compile time. Triton wants the argument first in `DTYPE == ...`.
# ruff: noqa: N803, N806, SIM300

from __future__ import annotations

import triton
import triton.language as tl

from accel_kernels.triton_provider.expand import (
    ROWS,
    load_words,
    lowered,
    offset,
    raised,
    scaled,
    settled,
)


@triton.jit
def _meta(meta_ptr, n, group, n_padded, groups, SCALE: tl.constexpr):
    """Zeros and scales, float32, of the shape that n and group broadcast to."""
    where = meta_ptr + group * n_padded + n
    word = tl.load(where)
    if SCALE == tl.float32:
        zeros = tl.load(where + groups * n_padded).to(tl.float32)
        scales = word.to(tl.float32, bitcast=True)
    else:
        # 2**23 plus the zero, as a float32: cheaper than a conversion of an integer
        zeros = (((word >> 16) & 0xFF) | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0
        if SCALE == tl.bfloat16:
            scales = (word << 16).to(tl.float32, bitcast=True)
        else:
            scales = (word & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return zeros, scales


@triton.jit
def _tile_meta(meta_ptr, n, k_start, n_padded, groups, SCALE: tl.constexpr, GROUP: tl.constexpr,
               BK: tl.constexpr):  # fmt: skip
    """Zeros and scales of a tile: [BN, 1] where it lies in one group, else [BN, BK].

    GROUP 0 is one group for all. A tile may reach past the last group, where x is masked.
    """
    if GROUP == 0:
        zeros, scales = _meta(meta_ptr, n[:, None], 0, n_padded, groups, SCALE)
    elif GROUP % BK == 0:
        group = tl.minimum(k_start // GROUP, groups - 1)
        zeros, scales = _meta(meta_ptr, n[:, None], group, n_padded, groups, SCALE)
    elif BK % GROUP == 0:
        span = tl.minimum(k_start // GROUP + tl.arange(0, BK // GROUP), groups - 1)
        narrow, thin = _meta(meta_ptr, n[:, None], span[None, :], n_padded, groups, SCALE)
        zeros, scales = _spread(narrow, GROUP, BK), _spread(thin, GROUP, BK)
    else:
        each = tl.minimum((k_start + tl.arange(0, BK)) // GROUP, groups - 1)
        zeros, scales = _meta(meta_ptr, n[:, None], each[None, :], n_padded, groups, SCALE)
    return zeros, scales


@triton.jit
def _spread(values, GROUP: tl.constexpr, BK: tl.constexpr):
    BN: tl.constexpr = values.shape[0]
    wide = tl.broadcast_to(values[:, :, None], (BN, BK // GROUP, GROUP))
    return tl.reshape(wide, (BN, BK))


@triton.jit
def _sum_splits(acc, partial_ptr, locks_ptr, tile, split, splits):
    """Whether this program is the last of its tile, and then the sum over all splits of it."""
    A: tl.constexpr = acc.shape[0]
    B: tl.constexpr = acc.shape[1]
    inside = tl.arange(0, A)[:, None] + tl.arange(0, B)[None, :] * A
    here = partial_ptr + tile.to(tl.int64) * splits * (A * B) + inside
    tl.store(here + split * (A * B), acc, cache_modifier=".cg")
    tl.debug_barrier()  # every thread's part is written before one thread says so
    arrived = tl.atomic_add(locks_ptr + tile, 1, sem="acq_rel", scope="gpu")
    last = arrived == splits - 1
    if last:
        tl.debug_barrier()
        acc = tl.zeros((A, B), dtype=tl.float32)
        for other in range(splits):
            acc += tl.load(here + other * (A * B), cache_modifier=".cg")
        tl.store(locks_ptr + tile, 0)
    return last, acc


# Not worth a kernel of their own for a value of 1 or a multiple of 16.
_PLAIN = ["M", "k_chunks", "groups", "steps", "splits", "n_tiles", "m_tiles", "k_tiles"]


@triton.jit(do_not_specialize=_PLAIN)
def linear(x_ptr, w_ptr, meta_ptr, y_ptr, partial_ptr, locks_ptr, M, N, K, n_padded, k_chunks,
           groups, steps, splits, n_tiles, m_tiles,
           BITS: tl.constexpr, GROUP: tl.constexpr, SCALE: tl.constexpr, DTYPE: tl.constexpr,
           NB: tl.constexpr, KB: tl.constexpr, BM: tl.constexpr, SPLIT: tl.constexpr,
           POST: tl.constexpr, PTX: tl.constexpr, EVEN_K: tl.constexpr):  # fmt: skip
    """y [M, N] = x [M, K] W, both in DTYPE; `steps` tiles of K a split.

    POST multiplies by the scales after the sum over a tile, which is then in one group: the weight
    that is multiplied is an exact integer, and fewer instructions run where BM is small.
    """
    BN: tl.constexpr = NB * ROWS
    BK: tl.constexpr = KB * (256 // BITS)
    FAST: tl.constexpr = PTX and BITS <= 4
    pid = tl.program_id(0)
    pid_m = pid % m_tiles
    pid_n = (pid // m_tiles) % n_tiles
    split = pid // (m_tiles * n_tiles)
    n = pid_n * BN + tl.arange(0, BN)
    m = pid_m * BM + tl.arange(0, BM)
    x_rows = x_ptr + m.to(tl.int64)[None, :] * K
    first = split * steps
    last = tl.minimum(first + steps, tl.cdiv(K, BK))
    acc = tl.zeros((BN, BM), dtype=tl.float32)
    for step in range(first, last):
        words = load_words(w_ptr, pid_n * NB, step * KB, k_chunks, NB, KB)
        k = step * BK + tl.arange(0, BK)
        if EVEN_K:
            xt = tl.load(x_rows + k[:, None], mask=(m < M)[None, :], other=0.0)
        else:
            xt = tl.load(x_rows + k[:, None], mask=(m < M)[None, :] & (k < K)[:, None], other=0.0)
        zeros, scales = _tile_meta(meta_ptr, n, step * BK, n_padded, groups, SCALE, GROUP, BK)
        q = raised(words, BITS, NB, KB, DTYPE, FAST)
        if POST:
            acc += tl.dot(lowered(q, zeros, DTYPE, FAST), xt) * scales
        else:
            acc = settled(tl.dot(scaled(q, zeros, scales, DTYPE, FAST), xt, acc), PTX)
    done = True
    if SPLIT:
        done, acc = _sum_splits(acc, partial_ptr, locks_ptr, pid_n * m_tiles + pid_m, split, splits)
    if done:
        where = y_ptr + m.to(tl.int64)[None, :] * N + n[:, None]
        tl.store(where, acc.to(DTYPE), mask=(m < M)[None, :] & (n < N)[:, None])


@triton.jit(do_not_specialize=_PLAIN)
def gradient(dy_ptr, w_ptr, meta_ptr, dx_ptr, partial_ptr, locks_ptr, M, N, K, n_padded, k_chunks,
             groups, steps, splits, k_tiles, m_tiles,
             BITS: tl.constexpr, GROUP: tl.constexpr, SCALE: tl.constexpr, DTYPE: tl.constexpr,
             NB: tl.constexpr, KB: tl.constexpr, BM: tl.constexpr, SPLIT: tl.constexpr,
             PTX: tl.constexpr):  # fmt: skip
    """dX [M, K] = dy [M, N] W^T, both in DTYPE; `steps` tiles of N a split."""
    BN: tl.constexpr = NB * ROWS
    BK: tl.constexpr = KB * (256 // BITS)
    FAST: tl.constexpr = PTX and BITS <= 4
    pid = tl.program_id(0)
    pid_m = pid % m_tiles
    pid_k = (pid // m_tiles) % k_tiles
    split = pid // (m_tiles * k_tiles)
    k = pid_k * BK + tl.arange(0, BK)
    m = pid_m * BM + tl.arange(0, BM)
    dy_rows = dy_ptr + m.to(tl.int64)[:, None] * N
    first = split * steps
    last = tl.minimum(first + steps, tl.cdiv(N, BN))
    acc = tl.zeros((BM, BK), dtype=tl.float32)
    for step in range(first, last):
        words = load_words(w_ptr, step * NB, pid_k * KB, k_chunks, NB, KB)
        n = step * BN + tl.arange(0, BN)
        dy = tl.load(dy_rows + n[None, :], mask=(m < M)[:, None] & (n < N)[None, :], other=0.0)
        zeros, scales = _tile_meta(meta_ptr, n, pid_k * BK, n_padded, groups, SCALE, GROUP, BK)
        q = raised(words, BITS, NB, KB, DTYPE, FAST)
        acc = tl.dot(dy, scaled(q, zeros, scales, DTYPE, FAST), acc)
    done = True
    if SPLIT:
        done, acc = _sum_splits(acc, partial_ptr, locks_ptr, pid_k * m_tiles + pid_m, split, splits)
    if done:
        where = dx_ptr + m.to(tl.int64)[:, None] * K + k[None, :]
        tl.store(where, acc.to(DTYPE), mask=(m < M)[:, None] & (k < K)[None, :])


@triton.jit(do_not_specialize=[*_PLAIN, "last_n"])
def dequantize(w_ptr, meta_ptr, out_ptr, first_n, first_k, last_n, last_k, row, n_padded, k_chunks,
               groups, k_tiles,
               BITS: tl.constexpr, GROUP: tl.constexpr, SCALE: tl.constexpr, DTYPE: tl.constexpr,
               KB: tl.constexpr):  # fmt: skip
    """A slab of W^T in DTYPE: out[n - first_n, k - first_k] for n < last_n and k < last_k.

    `row` elements from one output feature to the next; the slab begins at a whole tile.
    """
    BK: tl.constexpr = KB * (256 // BITS)
    pid = tl.program_id(0)
    n_chunk = first_n // ROWS + pid // k_tiles
    k_start = first_k + (pid % k_tiles) * BK
    n = n_chunk * ROWS + tl.arange(0, ROWS)
    k = k_start + tl.arange(0, BK)
    words = load_words(w_ptr, n_chunk, k_start // (256 // BITS), k_chunks, 1, KB)
    zeros, scales = _tile_meta(meta_ptr, n, k_start, n_padded, groups, SCALE, GROUP, BK)
    q = raised(words, BITS, 1, KB, DTYPE, False)
    weight = ((q - (zeros + offset(DTYPE, False))) * scales).to(DTYPE)
    where = out_ptr + (n - first_n).to(tl.int64)[:, None] * row + (k - first_k)[None, :]
    tl.store(where, weight, mask=(n < last_n)[:, None] & (k < last_k)[None, :])
