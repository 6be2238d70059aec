"""What a training step costs on a simulated device, beside the same step on the host.

    python benchmarks/simulator.py [--machine ascend-910b2] [--steps 10] [--json FILE]

A small Llama (6 layers, width 384), AdamW, sequences of 256. Steps on the host and on the device
take turns in one process, so that a drift of the machine falls on both alike. Report the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import accel
from accel import testing


def model_and_step(device: str) -> Any:
    """A function that takes one step on `device` and returns the loss."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        vocab_size=8192,
    )
    model = LlamaForCausalLM(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    words = torch.randint(0, 8192, (2, 256), generator=torch.Generator().manual_seed(1)).to(device)

    def step() -> float:
        optimizer.zero_grad()
        loss = model(input_ids=words, labels=words).loss
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machine", default="ascend-910b2")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    os.environ.setdefault("ACCEL_PROBE", "0")
    with testing.simulated(wanted.machine):
        accel.auto()  # so that transformers can be imported beside whatever is installed
        import torch

        kind = torch.accelerator.current_accelerator().type
        steps = {"host": model_and_step("cpu"), "simulated": model_and_step(kind)}
        losses = {name: [step() for _ in range(2)] for name, step in steps.items()}
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(wanted.steps):
            for name, step in steps.items():
                begin = time.process_time()
                losses[name].append(step())
                taken[name].append(time.process_time() - begin)
    seconds = {name: statistics.median(each) for name, each in taken.items()}
    ratio = seconds["simulated"] / seconds["host"]
    apart = max(abs(a - b) for a, b in zip(losses["host"], losses["simulated"], strict=True))
    print(f"{wanted.machine} ({kind}), processor seconds a step, median of {wanted.steps}")
    for name, each in seconds.items():
        print(f"  {name:<10} {each:.3f}")
    print(f"  ratio      {ratio:.2f}   losses apart by at most {apart:.1e}")
    if wanted.json:
        wanted.json.write_text(json.dumps({"ratio": ratio, "seconds": seconds}), encoding="utf-8")


if __name__ == "__main__":
    main()
