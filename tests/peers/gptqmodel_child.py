"""Run as a child, without accel: gptqmodel, or transformers with gptqmodel, on a checkpoint.

    python gptqmodel_child.py read WAY FOLDER OUT    logits, and the weight of each layer
    python gptqmodel_child.py make SETTINGS SOURCE FOLDER OUT    quantise SOURCE, then read

A process of its own, because importing gptqmodel changes what others find in transformers.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # not for those who import IDS
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import save_file

IDS = [[5, 17, 3, 99, 42, 7, 64, 21, 8, 90, 11, 30, 55, 2, 77, 18]]


def loaded(way: str, folder: str) -> Any:
    """The model in float16 on the processor."""
    if way == "transformers":
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, device_map="cpu")
    from gptqmodel import BACKEND, GPTQModel

    method = json.loads(Path(folder, "config.json").read_text())["quantization_config"]
    backend = BACKEND.AWQ_TORCH if method["quant_method"] == "awq" else BACKEND.GPTQ_TORCH
    return GPTQModel.load(folder, device="cpu", backend=backend, dtype=torch.float16).model


def read(way: str, folder: str, out: str) -> None:
    """A layer's weight is what it makes of the unit vectors: no kernel's inner names are needed."""
    model = loaded(way, folder).eval()
    found = {}
    with torch.no_grad():
        found["logits"] = model(input_ids=torch.tensor(IDS)).logits.float().contiguous()
        for name, module in model.named_modules():
            if hasattr(module, "qweight"):
                if module.bias is not None:
                    module.bias.zero_()
                units = torch.eye(module.in_features, dtype=torch.float16)
                found[name] = module(units).t().contiguous()
    save_file(found, out)


def make(settings: str, source: str, folder: str, out: str) -> None:
    """By GPTQ, or AWQ, on random tokens; then `read` it."""
    from gptqmodel import GPTQModel, QuantizeConfig

    model = GPTQModel.load(source, QuantizeConfig(device="cpu", **json.loads(settings)))
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randint(3, 120, (16, 64), generator=drawn).tolist()
    calibration = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
    model.quantize(calibration, batch_size=1)
    model.save(folder)
    read("gptqmodel", folder, out)


if __name__ == "__main__":
    {"read": read, "make": make}[sys.argv[1]](*sys.argv[2:])
