"""Trainings in which there is nothing to repair: what they come to, to the bit.

    python same_losses.py MODEL KIND...  ->  JSON on the last line: {kind: [loss, ..., weights]}

Started by test_fw_same_losses.py without accel and with it; also by torchrun.
"""

from __future__ import annotations

import gc
import hashlib
import json
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

warnings.simplefilter("ignore")
COMMON: dict[str, Any] = {
    "output_dir": "out",
    "max_steps": 4,
    "logging_steps": 1,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "seed": 5,
}


def rows(count: int = 24) -> list[dict[str, list[int]]]:
    """Token ids of the tiny model, each row another."""
    numbers = random.Random(11)
    ids = [[numbers.randrange(4, 16) for _ in range(6)] for _ in range(count)]
    return [{"input_ids": row, "attention_mask": [1] * 6, "labels": row} for row in ids]


def stacked(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A collator: every row has the same length."""
    return {key: torch.tensor([row[key] for row in batch]) for key in batch[0]}


def loaded(model: str) -> Any:
    """The tiny model in float32, with dropout, so that random numbers count."""
    from transformers import LlamaForCausalLM, set_seed

    set_seed(3)
    return LlamaForCausalLM.from_pretrained(model, attention_dropout=0.1)


def digest(module: torch.nn.Module) -> str:
    """Every weight, to the bit."""
    state = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        state.update(
            name.encode() + value.detach().contiguous().view(torch.uint8).numpy().tobytes()
        )
    return state.hexdigest()


def logged(trainer: Any) -> Iterator[str]:
    for line in trainer.state.log_history:
        for key in ("loss", "grad_norm", "eval_loss"):
            if key in line:
                yield float(line[key]).hex()
    yield digest(trainer.model)


def trainer(model: str, **more: Any) -> list[str]:
    """transformers' Trainer: accumulation, checkpointed activations, a schedule, evaluation."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        **COMMON,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        dataloader_num_workers=1,
        **more,
    )
    data = rows()
    made = Trainer(
        model=loaded(model),
        args=arguments,
        train_dataset=data,
        eval_dataset=data[:5],
        data_collator=stacked,
    )
    made.train()
    return list(logged(made))


def trainer_bf16(model: str) -> list[str]:
    """The same under autocast, as it works without accel too."""
    return trainer(model, bf16=True, use_cpu=True)


def accelerate(model: str) -> list[str]:
    """A loop on Accelerate; under torchrun, of every rank."""
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
    network = loaded(model)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    loader = torch.utils.data.DataLoader(rows(), batch_size=2, shuffle=True, collate_fn=stacked)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    network, optimizer, loader, schedule = accelerator.prepare(network, optimizer, loader, schedule)
    losses = []
    for batch in loader:
        with accelerator.accumulate(network):
            loss = network(**batch).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(float(accelerator.reduce(loss.detach(), "mean")).hex())
    found = digest(accelerator.unwrap_model(network))
    del network, optimizer, loss
    gc.collect()
    # Without accel, gloo's threads that drop their last work while the group ends can abort.
    time.sleep(0.5)
    accelerator.end_training()
    return [*losses, found]


def sft(model: str) -> list[str]:
    """TRL's SFT with LoRA."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    made = SFTTrainer(
        model=loaded(model),
        args=SFTConfig(**COMMON, bf16=False, max_length=16),
        train_dataset=Dataset.from_list(rows()),
        processing_class=tokenizer(model),
        peft_config=LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"]),
    )
    made.train()
    return list(logged(made))


def tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def plain(model: str) -> list[str]:
    """torch alone: workers, autocast, dropout, an optimizer with a closure's worth of state."""
    torch.manual_seed(2)
    network = torch.nn.Sequential(
        torch.nn.Embedding(16, 8),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(48, 32),
        torch.nn.LayerNorm(32),
        torch.nn.GELU(),
        torch.nn.Linear(32, 16),
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    loader = torch.utils.data.DataLoader(
        rows(), batch_size=4, shuffle=True, collate_fn=stacked, num_workers=2
    )
    losses = []
    for batch in loader:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            guess = network(batch["input_ids"])
        loss = torch.nn.functional.cross_entropy(guess.float(), batch["labels"][:, 0])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss).hex())
    return [*losses, digest(network)]


KINDS: dict[str, Callable[[str], list[str]]] = {
    kind.__name__: kind for kind in (plain, trainer, trainer_bf16, accelerate, sft)
}


def main(model: str, *kinds: str) -> None:
    """The kinds one after the other; a rank other than the first says nothing."""
    found = {kind: KINDS[kind](model) for kind in kinds}
    import os

    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
