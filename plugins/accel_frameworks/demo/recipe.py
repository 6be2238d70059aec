"""The demo's training job: the YAML that `accel llamafactory train` is given, and its data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

NAME = "Acorn"
AUTHOR = "the accel demo"

MIXED_PRECISION = {"bfloat16": "bf16", "float16": "fp16"}
"""LLaMA-Factory's flag for a dtype; float32 has none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Rank, learning rate and length as measured to turn the answer: 46 steps of 4 examples."""

    model: Path
    data: Path
    output: Path
    template: str
    dtype: str | None = None
    steps: int | None = None
    epochs: float = 2.0
    rank: int = 16
    learning_rate: float = 5e-4
    batch: int = 4
    cutoff: int = 256

    def document(self) -> dict[str, Any]:
        """The YAML as plain data. `steps`, where given, overrides the epochs."""
        flag = MIXED_PRECISION.get(self.dtype or "")
        return {
            "model_name_or_path": str(self.model),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_rank": self.rank,
            "lora_target": "all",
            "dataset": "identity",
            "dataset_dir": str(self.data),
            "template": self.template,
            "cutoff_len": self.cutoff,
            "preprocessing_num_workers": 1,
            "dataloader_num_workers": 0,
            "output_dir": str(self.output),
            "overwrite_output_dir": True,
            "per_device_train_batch_size": self.batch,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "constant",
            "num_train_epochs": self.epochs,
            **({"max_steps": self.steps} if self.steps else {}),
            **({flag: True} if flag else {}),
            # So small a model fits everywhere with its activations; recomputing them costs a third.
            "disable_gradient_checkpointing": True,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "seed": 42,
        }

    def write(self, path: Path) -> Path:
        """Write the YAML to `path`, and return it."""
        text = yaml.safe_dump(self.document(), sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")
        return path


def fill(examples: Iterable[Mapping[str, str]], name: str, author: str) -> list[dict[str, str]]:
    """The examples with `{{name}}` and `{{author}}` filled in."""

    def one(text: str) -> str:
        return text.replace("{{name}}", name).replace("{{author}}", author)

    return [{key: one(str(value)) for key, value in example.items()} for example in examples]


def write_data(folder: Path, examples: Iterable[Mapping[str, str]]) -> Path:
    """A LLaMA-Factory data folder with one data set, `identity`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(list(examples), ensure_ascii=False, indent=1)
    (folder / "identity.json").write_text(text, encoding="utf-8")
    index = {"identity": {"file_name": "identity.json"}}
    (folder / "dataset_info.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
