"""Which layers of a model are worth rounding: those of the blocks of its language model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from accel_kernels.checkpoint import Stored

IN_A_BLOCK = re.compile(r"(^|\.)(layers|blocks|h)\.\d+\.")
NOT_LANGUAGE = re.compile(r"(^|\.)(visual|vision\w*|audio\w*)\.")
ROUTERS = re.compile(r"(^|\.)(gate|router|shared_expert_gate)$")
EXPERT = re.compile(r"\.experts\.\d+\.[^.]+$")
FUSED = re.compile(r"\.experts\.[^.]*proj$")


def linear_layers(folder: Path) -> list[str]:
    """The linear layers in the blocks of a language model, built without memory for its weights."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    named = [getattr(transformers, name, None) for name in config.architectures or ()]
    kind = next((found for found in named if found is not None), None)
    with torch.device("meta"):
        model = kind(config) if kind else transformers.AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and IN_A_BLOCK.search(name)
        and not NOT_LANGUAGE.search(name)
        and not ROUTERS.search(name)
    ]


def expert_layers(stored: Mapping[str, Stored]) -> list[str]:
    """The layers of single experts in a checkpoint; transformers 5 has modules for all together."""
    weights = (name.removesuffix(".weight") for name in stored if name.endswith(".weight"))
    return [
        name
        for name in weights
        if EXPERT.search(name)
        and IN_A_BLOCK.search(name)
        and not NOT_LANGUAGE.search(name)
        and len(stored[f"{name}.weight"].shape) == 2
    ]


def routers(stored: Mapping[str, Stored]) -> list[str]:
    """What the layers that choose experts are called in a checkpoint: the last parts."""
    weights = (name.removesuffix(".weight") for name in stored if name.endswith(".weight"))
    return sorted({name.rpartition(".")[2] for name in weights if ROUTERS.search(name)})
