"""Mixtures of experts, which transformers 5 keeps as one tensor for all experts of a layer.

Quantised checkpoints store each expert's layers by themselves. So the module with the tensor gives
way to one with a layer for each, under the names that the checkpoint has for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from accel_kernels.formats import FormatError
from accel_kernels.layer import put

GATE, UP, DOWN = "gate", "up", "down"
NAMES = {
    "gate_proj": GATE, "up_proj": UP, "down_proj": DOWN, "w1": GATE, "w3": UP, "w2": DOWN,
}  # fmt: skip
"""What checkpoints call an expert's layers."""


class SplitExperts(nn.Module):  # type: ignore[misc]
    """Experts with layers of their own, called as transformers' experts are.

    Children "0", "1", ... hold the layers of one expert each, by `names`: what the checkpoint calls
    its gate, up and down.
    """

    def __init__(self, experts: nn.Module, names: Mapping[str, str]) -> None:
        super().__init__()
        for key, value in vars(experts).items():
            if not key.startswith("_"):
                setattr(self, key, value)
        for key, module in experts.named_children():
            self.add_module(key, module)
        self.names = dict(names)
        self._gating: Callable[[Any, torch.Tensor], torch.Tensor] = getattr(
            type(experts), "_apply_gate", _gated
        )
        count, hidden, inner = sizes(experts)
        widths = {GATE: (hidden, inner), UP: (hidden, inner), DOWN: (inner, hidden)}
        self.count = count
        for index in range(count):
            expert = nn.Module()
            for part, name in self.names.items():
                expert.add_module(name, nn.Linear(*widths[part], bias=False, device="meta"))
            self.add_module(str(index), expert)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """hidden_states [T, H], of each token its k experts and their weights [T, k] -> [T, H]."""
        k = top_k_index.shape[-1]
        chosen = top_k_index.reshape(-1)
        order = torch.argsort(chosen, stable=True)
        counts = torch.bincount(chosen, minlength=self.count)[: self.count].tolist()
        weights = top_k_weights.reshape(-1)
        summed = torch.zeros_like(hidden_states)
        for index, rows in enumerate(order[: sum(counts)].split(counts)):
            if rows.numel():
                tokens = rows // k
                y = self._one(index, hidden_states[tokens]) * weights[rows, None]
                summed.index_add_(0, tokens, y.to(summed.dtype))
        return summed

    def _one(self, index: int, x: torch.Tensor) -> torch.Tensor:
        expert = self.get_submodule(str(index))
        gate, up, down = (getattr(expert, self.names[part]) for part in (GATE, UP, DOWN))
        y: torch.Tensor = down(self._gating(self, torch.cat([gate(x), up(x)], dim=-1)))
        return y


def _gated(experts: Any, both: torch.Tensor) -> torch.Tensor:
    gate, up = both.chunk(2, dim=-1)
    product: torch.Tensor = experts.act_fn(gate) * up
    return product


def fused(module: nn.Module) -> bool:
    """Whether a module keeps the weights of all its experts in one tensor."""
    own = dict(module.named_parameters(recurse=False))
    return {"gate_up_proj", "down_proj"} <= own.keys() and own["gate_up_proj"].dim() == 3


def sizes(experts: nn.Module) -> tuple[int, int, int]:
    """How many experts, their input features, and the features between."""
    count, out_features, in_features = experts.down_proj.shape
    if getattr(experts, "is_transposed", False):
        out_features, in_features = in_features, out_features
    return count, out_features, in_features


def split(model: nn.Module, prefixes: Iterable[str], bare: Callable[[str], str]) -> None:
    """Give the experts that a checkpoint has quantised, by `prefixes`, layers of their own.

    `bare` makes names in the checkpoint and in the model comparable. Raises FormatError where the
    experts are of another kind, or only some of their layers are quantised.
    """
    known = [bare(prefix) for prefix in prefixes]
    for name, module in list(model.named_modules()):
        if not fused(module):
            continue
        start = bare(name) + "."
        found = [
            prefix.removeprefix(start).split(".") for prefix in known if prefix.startswith(start)
        ]
        if found:
            put(model, name, SplitExperts(module, _names(name, module, found)))


def _names(name: str, experts: nn.Module, found: list[list[str]]) -> dict[str, str]:
    """What the checkpoint calls gate, up and down."""
    names = {NAMES.get(parts[-1], ""): parts[-1] for parts in found if len(parts) == 2}
    odd = getattr(experts, "has_bias", False) or not getattr(experts, "has_gate", True)
    if odd or names.keys() != {GATE, UP, DOWN} or any(len(parts) != 2 for parts in found):
        raise FormatError(
            f"the quantised experts of {name} are not of a kind that accel has layers for",
            found=", ".join(sorted({parts[-1] for parts in found})),
            remedy="pip install 'transformers<5', which keeps experts as single layers",
        )
    count = sizes(experts)[0]
    if len(found) != 3 * count:
        raise FormatError(
            f"{name} needs all layers of its {count} experts quantised, or none",
            found=f"{len(found)} layers of {3 * count}",
        )
    return names
