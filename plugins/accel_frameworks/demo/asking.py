"""Run as a child by `accel demo`: convert the model if need be, ask it, write down what it said.

    python -m accel_frameworks.demo.asking REQUEST.json ANSWER.json

A child of its own, so that the device is free again when training begins, and so that each report
comes from a process that `accel.auto()` was the first to touch.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import accel
from accel import reporting
from accel.errors import AccelError

MAX_NEW_TOKENS = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What the child is to do: paths as strings, so that it travels as JSON.

    `gguf`, where given, is converted to the folder `model` first; `adapter` is laid on top.
    """

    model: str
    questions: Sequence[str]
    gguf: str | None = None
    adapter: str | None = None
    device: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back: an answer to each question, and the report: in short, as HTML and as data."""

    answers: Sequence[str]
    device: str
    dtype: str | None
    attention: str | None
    text: str
    html: str
    report: Mapping[str, Any]


def convert(gguf: Path, folder: Path) -> None:
    """Turn a GGUF file into a model folder: weights, tokenizer, chat template.

    The folder appears whole or not at all. The file says which token ends a turn only in the
    model's configuration, so the tokenizer takes it from there.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, name = str(gguf.parent), gguf.name
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=name).to(torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.pad_token = tokenizer.eos_token
    part = folder.with_name(folder.name + ".part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    name_tokenizer(part)
    part.replace(folder)


def name_tokenizer(folder: Path) -> None:
    """Call the tokenizer by the one class that believes tokenizer.json in every transformers.

    Version 4 saves this one as LlamaTokenizer, in whose place 5.6.0 builds a tokenizer of its own
    that knows no spaces; version 5 saves a name that version 4 does not know.
    """
    path = folder / "tokenizer_config.json"
    if not (folder / "tokenizer.json").is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def ask(report: accel.Report, request: Request) -> list[str]:
    """The model's greedy answer to each question, in the device and dtype of the report."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(request.model)
    # The dtype while loading: a quantised model refuses to change it later.
    model = AutoModelForCausalLM.from_pretrained(request.model, torch_dtype=report.dtype)
    if request.adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, request.adapter)
    model = model.to(report.torch_device).eval()
    answers: list[str] = []
    for question in request.questions:
        turn = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        tokens = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        tokens = tokens.to(report.torch_device)
        with torch.no_grad():
            output = model.generate(**tokens, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        fresh = output[0, tokens["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(fresh, skip_special_tokens=True).strip())
    return answers


def in_short(report: accel.Report) -> str:
    """The report for a terminal: what was chosen and every note, the repairs only counted."""
    plan = dataclasses.replace(report.plan, patches=())
    states = Counter(entry.state for entry in report.entries)
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    text = reporting.as_text(plan, notes=report.notes, brief=True).rstrip()
    return f"{text}\n\nRepairs: {counted or 'none needed'}"


def main(request_path: str, answer_path: str) -> None:
    """Do what REQUEST.json asks and write ANSWER.json."""
    request = Request(**json.loads(Path(request_path).read_text(encoding="utf-8")))
    report = accel.auto(request.device)
    if request.gguf is not None:
        convert(Path(request.gguf), Path(request.model))
    answers = ask(report, request)
    answer = Answer(
        answers=answers,
        device=report.device.name,
        dtype=report.plan.dtype,
        attention=report.attention,
        text=in_short(report),
        html=report.explain("html"),
        report=report.to_json(),
    )
    text = json.dumps(dataclasses.asdict(answer), ensure_ascii=False)
    Path(answer_path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except AccelError as error:
        sys.exit(str(error))
