"""Stands in for Cambricon's torch_mlu while an MLU is simulated: name, version and `torch.mlu`."""

from __future__ import annotations

import torch

from accel_simulator import starting

_state = starting.state()
if _state is None or not hasattr(torch, "mlu"):
    raise ImportError(
        "this torch_mlu only stands in for the real one while an MLU is simulated "
        "(accel simulate mlu590 -- COMMAND)"
    )
__version__ = next(
    (card.versions["torch_mlu"] for card in _state.cards if "torch_mlu" in card.versions), "0"
)

mlu = torch.mlu

__all__ = ["mlu"]
