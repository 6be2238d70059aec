"""Attention kernels to be judged: one right in either layout, the others wrong in one way each."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention


def right(q: Any, k: Any, v: Any, causal: bool) -> Any:
    """[batch, sequence, heads, dim]"""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)


def right_heads_first(q: Any, k: Any, v: Any, causal: bool) -> Any:
    return scaled_dot_product_attention(q, k, v, is_causal=causal), "statistics"


def not_causal(q: Any, k: Any, v: Any, causal: bool) -> Any:
    return right(q, k, v, False)


def no_gradient(q: Any, k: Any, v: Any, causal: bool) -> Any:
    return right(q, k.detach(), v, causal)


def nan_gradient(q: Any, k: Any, v: Any, causal: bool) -> Any:
    out = right(q, k, v, causal)
    out.register_hook(lambda gradient: gradient * float("nan"))
    return out


def elsewhere(q: Any, k: Any, v: Any, causal: bool) -> Any:
    return right(q, k, v, causal).to("meta")


def wrong_shape(q: Any, k: Any, v: Any, causal: bool) -> Any:
    return right(q, k, v, causal)[:, :-1]


def infinite(q: Any, k: Any, v: Any, causal: bool) -> Any:
    return right(q, k, v, causal) * torch.inf
