"""torch_npu's fused operators, as far as training libraries call them, in plain operations."""

from __future__ import annotations

from typing import Any

import torch

from accel_simulator import starting

CAUSAL_FROM_THE_LEFT, CAUSAL_FROM_THE_RIGHT = 2, 3
"""`sparse_mode`: the mask's diagonal begins at the first key, or ends at the last."""


def _check_chip(name: str) -> None:
    state = starting.state()
    chip = next((c.first for c in state.cards if c.kind == "npu"), None) if state else None
    if chip is not None and chip.family in ("910a", "310p"):
        raise RuntimeError(
            f"{name} is not supported on {chip.arch}: it is for 910B, 910_93 and 950"
        )


def npu_fusion_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: torch.Tensor | None = None,
    padding_mask: torch.Tensor | None = None,
    atten_mask: torch.Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = 2147483647,
    next_tockens: int = 2147483647,
    inner_precise: int = 0,
    prefix: Any = None,
    actual_seq_qlen: Any = None,
    actual_seq_kvlen: Any = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
) -> tuple[Any, ...]:
    """Attention; `atten_mask` is True where a key is hidden. The first of the results is it.

    Raises RuntimeError on chips that lack it, and NotImplementedError for options that training
    libraries do not use.
    """
    _check_chip("npu_fusion_attention")
    if pse is not None or padding_mask is not None or prefix is not None:
        raise NotImplementedError("pse, padding_mask and prefix are not simulated")
    if input_layout == "TND":
        out = _packed(
            query, key, value, scale, keep_prob, sparse_mode, actual_seq_qlen, actual_seq_kvlen
        )
        return out, None, None, None, 0, 0, 0
    q, k, v = (_heads_first(t, input_layout, head_num) for t in (query, key, value))
    hidden = _hidden(q, k, atten_mask, sparse_mode)
    out = _attend(q, k, v, hidden, scale, keep_prob)
    return _as_given(out, input_layout), None, None, None, 0, 0, 0


def _heads_first(tensor: torch.Tensor, layout: str, heads: int) -> torch.Tensor:
    if layout == "BNSD":
        return tensor
    if layout == "BSND":
        return tensor.transpose(1, 2)
    if layout == "BSH":
        return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)
    if layout == "SBH":
        return tensor.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
    raise RuntimeError(f"The input_layout should be BSH/SBH/BNSD/BSND/TND, but got {layout}")


def _as_given(out: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "BNSD":
        return out
    if layout == "BSND":
        return out.transpose(1, 2)
    if layout == "BSH":
        return out.transpose(1, 2).flatten(2)
    return out.permute(2, 0, 1, 3).flatten(2)


def _hidden(
    q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None, mode: int
) -> torch.Tensor | None:
    if mode in (CAUSAL_FROM_THE_LEFT, CAUSAL_FROM_THE_RIGHT):
        rows, columns = q.shape[-2], k.shape[-2]
        shift = columns - rows if mode == CAUSAL_FROM_THE_RIGHT else 0
        ones = torch.ones(rows, columns, dtype=torch.bool, device=q.device)
        return ones.triu(shift + 1)
    return None if mask is None else mask.bool()


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    hidden: torch.Tensor | None,
    scale: float,
    keep: float,
) -> torch.Tensor:
    if q.shape[1] != k.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=None if hidden is None else ~hidden, dropout_p=1.0 - keep, scale=scale
    )


def _packed(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    keep: float,
    mode: int,
    q_ends: Any,
    k_ends: Any,
) -> torch.Tensor:
    """`TND`: sequences one after the other, which end where the lists say."""
    parts = []
    q_start = k_start = 0
    for q_end, k_end in zip(q_ends, k_ends, strict=True):
        one_q, one_k, one_v = (
            t[start:end].transpose(0, 1)[None]
            for t, start, end in ((q, q_start, q_end), (k, k_start, k_end), (v, k_start, k_end))
        )
        hidden = _hidden(one_q, one_k, None, mode)
        parts.append(_attend(one_q, one_k, one_v, hidden, scale, keep)[0].transpose(0, 1))
        q_start, k_start = q_end, k_end
    return torch.cat(parts)


def npu_rms_norm(
    self: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """Root mean square norm, and the reciprocal of the root."""
    wide = self.float()
    rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (wide * rstd * gamma.float()).to(self.dtype), rstd


def npu_rotary_mul(
    input: torch.Tensor,  # noqa: A002 - the real one's name
    r1: torch.Tensor,
    r2: torch.Tensor,
    rotary_mode: str = "half",
) -> torch.Tensor:
    """Rotary embedding: input * r1 + rotated(input) * r2."""
    if rotary_mode == "half":
        first, second = input.chunk(2, dim=-1)
        rotated = torch.cat((-second, first), dim=-1)
    elif rotary_mode == "interleave":
        rotated = torch.stack((-input[..., 1::2], input[..., ::2]), dim=-1).flatten(-2)
    else:
        raise RuntimeError(f"rotary_mode should be half or interleave, but got {rotary_mode}")
    return input * r1 + rotated * r2


def npu_swiglu(self: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """silu of the first half times the second."""
    gate, up = self.chunk(2, dim=dim)
    return torch.nn.functional.silu(gate) * up
