"""Stands in for Moore Threads' torch_musa while such a GPU is simulated: name and `torch.musa`."""

from __future__ import annotations

import torch

from accel_simulator import starting

_state = starting.state()
if _state is None or not hasattr(torch, "musa"):
    raise ImportError(
        "this torch_musa only stands in for the real one while a MUSA GPU is simulated "
        "(accel simulate s4000 -- COMMAND)"
    )
__version__ = next(
    (card.versions["torch_musa"] for card in _state.cards if "torch_musa" in card.versions), "0"
)

musa = torch.musa

__all__ = ["musa"]
