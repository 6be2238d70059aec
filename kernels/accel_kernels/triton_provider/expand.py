"""Device functions: packed words to weights, in registers.

The layout (`layout.py` makes it) is a grid of chunks of 1024 int16, each 64 output features by
`256 / bits` input features. Within a chunk the order is the one in which the threads of a matrix
instruction's left operand want their registers, 16 bytes a thread, so that a load is 16 bytes wide
and nothing moves between threads afterwards. An int16 holds inputs c, c + 16, c + 32, ...: equal
fields of two neighbouring int16 are a ready pair of halves.
"""

# No annotations on the device functions: Triton would look their names up among its own.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-redef"
# Upper case is known at compile time. Triton wants the argument first in `DTYPE == ...`.
# ruff: noqa: N803, SIM300

from __future__ import annotations

import triton
import triton.language as tl

ROWS = tl.constexpr(64)
"""Output features of a chunk."""
CHUNK = tl.constexpr(1024)
"""int16 of a chunk."""


def _nibbles(magic: str) -> str:
    fields = ["lop3.b32 $0, $4, 0x000f000f, " + magic + ", 0xEA;"]
    for field in (1, 2, 3):
        fields.append(f"shr.u32 t, $4, {4 * field};")
        fields.append(f"lop3.b32 ${field}, t, 0x000f000f, {magic}, 0xEA;")
    return "{ .reg .b32 t; " + " ".join(fields) + " }"


def _pairs(magic: str) -> str:
    fields = ["lop3.b32 $0, $8, 0x00030003, " + magic + ", 0xEA;"]
    for field in range(1, 8):
        fields.append(f"shr.u32 t, $8, {2 * field};")
        fields.append(f"lop3.b32 ${field}, t, 0x00030003, {magic}, 0xEA;")
    return "{ .reg .b32 t; " + " ".join(fields) + " }"


# A field below 16 in the low mantissa bits of 128.0 (bf16) or 1024.0 (fp16) is that number plus it.
_NIBBLES_BF16 = tl.constexpr(_nibbles("0x43004300"))
_NIBBLES_FP16 = tl.constexpr(_nibbles("0x64006400"))
_PAIRS_BF16 = tl.constexpr(_pairs("0x43004300"))
_PAIRS_FP16 = tl.constexpr(_pairs("0x64006400"))
_FOUR = tl.constexpr("=&r,=&r,=&r,=&r,r")
_EIGHT = tl.constexpr("=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,r")
_BF16_4, _FP16_4 = tl.constexpr((tl.bfloat16,) * 4), tl.constexpr((tl.float16,) * 4)
_BF16_8, _FP16_8 = tl.constexpr((tl.bfloat16,) * 8), tl.constexpr((tl.float16,) * 8)
# fma, because sm_80 has no packed bf16 add or multiply; both forms round as those would
_ADD_BF16 = tl.constexpr("{ .reg .b32 u; mov.b32 u, 0x3f803f80; fma.rn.bf16x2 $0, $1, u, $2; }")
_ADD_FP16 = tl.constexpr("{ .reg .b32 u; mov.b32 u, 0x3c003c00; fma.rn.f16x2 $0, $1, u, $2; }")
_MUL_BF16 = tl.constexpr("{ .reg .b32 u; mov.b32 u, 0x80008000; fma.rn.bf16x2 $0, $1, $2, u; }")
_MUL_FP16 = tl.constexpr("{ .reg .b32 u; mov.b32 u, 0x80008000; fma.rn.f16x2 $0, $1, $2, u; }")


@triton.jit
def load_words(w_ptr, n_chunk, k_chunk, k_chunks, NB: tl.constexpr, KB: tl.constexpr):
    """int16 [NB, KB, 1024]: the chunks from (n_chunk, k_chunk) on."""
    rows = (n_chunk + tl.arange(0, NB)).to(tl.int64) * k_chunks
    chunks = rows[:, None] + (k_chunk + tl.arange(0, KB))[None, :]
    return tl.load(w_ptr + chunks[:, :, None] * CHUNK + tl.arange(0, CHUNK)[None, None, :])


@triton.jit
def _in_order(words, NB: tl.constexpr, KB: tl.constexpr):
    """int16 [NB, KB, 1024] as [64 NB, KB, 16]: output features first."""
    fields = tl.reshape(words, (NB, KB, 4, 8, 4, 2, 2, 2))  # n5:4 n2:0 k2:1 k3 n3 k0
    fields = tl.permute(fields, (0, 2, 6, 3, 1, 5, 4, 7))
    return tl.reshape(fields, (NB * ROWS, KB, 16))


@triton.jit
def _field(words, index: tl.constexpr, bits: tl.constexpr):
    """2**23 plus field `index` of each word, float32: exact, and no integer conversion."""
    field = (words.to(tl.int32) >> (index * bits)) & ((1 << bits) - 1)
    return (field | 0x4B000000).to(tl.float32, bitcast=True)


@triton.jit
def _interleave(a, b, NB: tl.constexpr, KB: tl.constexpr, FIELDS: tl.constexpr):
    """Two halves of the fields, each [64 NB, KB, FIELDS / 2, 16], one after the other."""
    joined = tl.permute(tl.join(a, b), (0, 1, 4, 2, 3))
    return tl.reshape(joined, (NB * ROWS, KB, FIELDS, 16))


@triton.jit
def _stack4(a, b, c, d, NB: tl.constexpr, KB: tl.constexpr):
    joined = tl.join(tl.join(a, c), tl.join(b, d))  # [.., 16, high, low]
    return tl.reshape(tl.permute(joined, (0, 1, 3, 4, 2)), (NB * ROWS, KB, 4, 16))


@triton.jit
def _stack2(a, b, NB: tl.constexpr, KB: tl.constexpr):
    return tl.reshape(tl.permute(tl.join(a, b), (0, 1, 3, 2)), (NB * ROWS, KB, 2, 16))


@triton.jit
def raised(words, BITS: tl.constexpr, NB: tl.constexpr, KB: tl.constexpr, DTYPE: tl.constexpr,
           FAST: tl.constexpr):  # fmt: skip
    """q plus `offset(...)`, exact, [64 NB, KB * 256 / BITS], from words [NB, KB, 1024].

    DTYPE (float16 or bfloat16) where FAST, which takes 2 or 4 bits and PTX; else float32.
    """
    h = _in_order(words, NB, KB)
    if BITS == 4:
        if FAST:
            if DTYPE == tl.bfloat16:
                a, b, c, d = tl.inline_asm_elementwise(_NIBBLES_BF16, _FOUR, [h], _BF16_4, True, 2)
            else:
                a, b, c, d = tl.inline_asm_elementwise(_NIBBLES_FP16, _FOUR, [h], _FP16_4, True, 2)
            q = _stack4(a, b, c, d, NB, KB)
        else:
            q = _stack4(_field(h, 0, 4), _field(h, 1, 4), _field(h, 2, 4), _field(h, 3, 4), NB, KB)
    elif BITS == 2:
        if FAST:
            if DTYPE == tl.bfloat16:
                a, b, c, d, e, f, g, i = tl.inline_asm_elementwise(
                    _PAIRS_BF16, _EIGHT, [h], _BF16_8, True, 2
                )
            else:
                a, b, c, d, e, f, g, i = tl.inline_asm_elementwise(
                    _PAIRS_FP16, _EIGHT, [h], _FP16_8, True, 2
                )
            low, high = _stack4(a, b, c, d, NB, KB), _stack4(e, f, g, i, NB, KB)
        else:
            low = _stack4(
                _field(h, 0, 2), _field(h, 1, 2), _field(h, 2, 2), _field(h, 3, 2), NB, KB
            )
            high = _stack4(
                _field(h, 4, 2), _field(h, 5, 2), _field(h, 6, 2), _field(h, 7, 2), NB, KB
            )
        q = _interleave(low, high, NB, KB, 8)
    else:
        q = _stack2(_field(h, 0, 8), _field(h, 1, 8), NB, KB)
    return tl.reshape(q, (NB * ROWS, KB * (256 // BITS)))


@triton.jit
def offset(DTYPE: tl.constexpr, FAST: tl.constexpr):
    """What `raised` adds to q."""
    if FAST:
        raised_by: tl.constexpr = 128.0 if DTYPE == tl.bfloat16 else 1024.0
    else:
        raised_by: tl.constexpr = 8388608.0
    return raised_by


@triton.jit
def lowered(raised_q, zeros, DTYPE: tl.constexpr, FAST: tl.constexpr):
    """q - z in DTYPE, exact; `zeros` float32, of a shape that broadcasts."""
    down = -(zeros + offset(DTYPE, FAST))
    if FAST:
        if DTYPE == tl.bfloat16:
            out = tl.inline_asm_elementwise(
                _ADD_BF16, "=r,r,r", [raised_q, down.to(DTYPE)], tl.bfloat16, True, 2
            )
        else:
            out = tl.inline_asm_elementwise(
                _ADD_FP16, "=r,r,r", [raised_q, down.to(DTYPE)], tl.float16, True, 2
            )
    else:
        out = (raised_q + down).to(DTYPE)
    return out


@triton.jit
def scaled(raised_q, zeros, scales, DTYPE: tl.constexpr, FAST: tl.constexpr):
    """(q - z) s in DTYPE; `zeros` and `scales` float32, of a shape that broadcasts."""
    if FAST:
        difference = lowered(raised_q, zeros, DTYPE, FAST)
        if DTYPE == tl.bfloat16:
            out = tl.inline_asm_elementwise(
                _MUL_BF16, "=r,r,r", [difference, scales.to(DTYPE)], tl.bfloat16, True, 2
            )
        else:
            out = tl.inline_asm_elementwise(
                _MUL_FP16, "=r,r,r", [difference, scales.to(DTYPE)], tl.float16, True, 2
            )
    else:
        out = ((raised_q - (zeros + offset(DTYPE, FAST))) * scales).to(DTYPE)
    return out


@triton.jit
def settled(acc, PTX: tl.constexpr):
    """`acc` itself, once the matrix instructions that make it have ended.

    Triton 3.6 lets sm_90's run on into the next round, which then overwrites the registers that
    they still read the weight from. An instruction of no length, which needs the sum, ends that.
    """
    if PTX:
        acc = tl.inline_asm_elementwise("", "=f,0", [acc], tl.float32, True, 1)
    return acc
