"""What transformers' example `run_clm.py` does, from the library's public interface.

The example itself is in no distribution on the package index: transformers' own source archive has
`src` and `tests` only. test_scripts.py runs it where RUN_CLM names a copy. The same parts in the
same order: HfArgumentParser, a text file by `datasets`, tokenised and grouped into blocks, Trainer.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

from datasets import load_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


@dataclasses.dataclass
class DataArguments:
    """What to train, on what."""

    model_name_or_path: str
    train_file: str
    block_size: int = 32


def main() -> None:
    """Train, and evaluate on the same text."""
    parser = HfArgumentParser((DataArguments, TrainingArguments))
    given, arguments = parser.parse_args_into_dataclasses()
    set_seed(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(given.model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(given.model_name_or_path)
    raw = load_dataset("text", data_files={"train": given.train_file})["train"]
    tokens = raw.map(lambda rows: tokenizer(rows["text"]), batched=True, remove_columns=["text"])

    def blocks(rows: dict[str, Any]) -> dict[str, Any]:
        joined = {name: list(itertools.chain(*rows[name])) for name in ("input_ids",)}
        length = len(joined["input_ids"]) // given.block_size * given.block_size
        ids = [
            joined["input_ids"][start : start + given.block_size]
            for start in range(0, length, given.block_size)
        ]
        return {"input_ids": ids, "labels": [list(row) for row in ids]}

    data = tokens.map(blocks, batched=True, remove_columns=tokens.column_names)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
        data_collator=default_data_collator,
    )
    trainer.train()
    print("PERPLEXITY", math.exp(trainer.evaluate()["eval_loss"]))


if __name__ == "__main__":
    main()
