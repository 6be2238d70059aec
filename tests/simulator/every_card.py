"""Train a two-layer Llama on simulated machines, or on the host; run by test_sim_every_card.py.

    python every_card.py            on the host, in float32
    python every_card.py NAME...    on each simulated machine, in float32 and in its own dtype

prints one JSON object a machine. The host has a process of its own: torch's autograd counts the
devices at its first backward, and a device that is simulated afterwards is not among them.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

import accel
from accel import testing

STEPS = 4


def losses(device: torch.device, dtype: torch.dtype, attention: str) -> list[float]:
    """What each step gives: weights in float32, products in `dtype`."""
    import transformers

    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**sizes, **heads, attn_implementation=attention)
    model = transformers.LlamaForCausalLM(config).to(device)
    words = torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(1)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reduced = dtype is not torch.float32
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    found = []
    for _ in range(STEPS):
        with torch.autocast(device.type, dtype if reduced else None, enabled=reduced):
            loss = model(input_ids=words, labels=words).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        found.append(loss.item())
    assert {parameter.device for parameter in model.parameters()} == {device}
    return found


def main(names: list[str]) -> None:
    if not names:
        report = accel.auto("cpu")
        print(json.dumps(losses(torch.device("cpu"), torch.float32, "eager")))
        report.revert()
    for name in names:
        with testing.simulated(name, count=1):
            report = accel.auto()
            try:
                attention = report.attention or "eager"
                row: dict[str, Any] = {"name": name, "kind": report.device.kind}
                row["exact"] = losses(report.torch_device, torch.float32, attention)
                row["own"] = losses(report.torch_device, report.dtype, attention)
            finally:
                report.revert()
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
