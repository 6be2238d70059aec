"""Stands in for Huawei's torch_npu while an Ascend NPU is simulated.

Only names of the real package, as far as training libraries look at them. Its fused operators
compute what the real ones do, in plain operations of torch.
"""

from __future__ import annotations

from typing import Any

import torch

from accel_simulator import starting

_state = starting.state()
if _state is None or not hasattr(torch, "npu"):
    raise ImportError(
        "this torch_npu only stands in for the real one while an Ascend NPU is simulated "
        "(accel simulate ascend-910b2 -- COMMAND)"
    )
__version__ = next(
    (card.versions["torch_npu"] for card in _state.cards if "torch_npu" in card.versions), "0"
)

npu = torch.npu

from torch_npu import optim, profiler  # noqa: E402
from torch_npu.fused import (  # noqa: E402
    npu_fusion_attention,
    npu_rms_norm,
    npu_rotary_mul,
    npu_swiglu,
)

ND_FORMAT = 2
"""ACL's number for a plain layout, the only one there is here."""


def get_npu_format(tensor: torch.Tensor) -> int:
    """The layout of a tensor on the NPU: always the plain one."""
    return ND_FORMAT


def npu_format_cast(tensor: torch.Tensor, acl_format: Any, *rest: Any) -> torch.Tensor:
    """`tensor` as it is: there is one layout here."""
    return tensor


__all__ = [
    "get_npu_format",
    "npu",
    "npu_format_cast",
    "npu_fusion_attention",
    "npu_rms_norm",
    "npu_rotary_mul",
    "npu_swiglu",
    "optim",
    "profiler",
]
