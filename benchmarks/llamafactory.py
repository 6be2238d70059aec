"""LLaMA-Factory on the device that is there: alone and under accel, dense and quantised.

    python benchmarks/llamafactory.py equal MODEL --data FOLDER [--ranks 2] [--steps 20] [KEY=VALUE]
    python benchmarks/llamafactory.py quantized MODEL.gguf --data FOLDER [--steps 20] [KEY=VALUE]

`equal` trains with `llamafactory-cli train` and with `accel llamafactory train`, in turns, and
compares the losses of every step and the seconds of training. With more than one rank both start
torchrun. MODEL is a folder, or `random` for 135 million random weights.

`quantized` converts a GGUF file, makes an AWQ and a GPTQ checkpoint of it with `accel quantize`,
asks each for the capital of France, fine-tunes it with LoRA on FOLDER's `identity` data set, and
prints the losses. Further KEY=VALUE words go into the job file of either.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

QUESTION = "What is the capital of France?"
LOADERS = {"autoawq": "awq", "gptqmodel": "gptqmodel", "optimum": "optimum"}


def job(model: Path, options: argparse.Namespace, output: Path) -> Path:
    """The job file of a run: LoRA on the data set `identity`."""
    settings: dict[str, Any] = {
        "model_name_or_path": str(model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 8,
        "lora_target": "all",
        "template": "chatml",
        "dataset": "identity",
        "dataset_dir": str(options.data.absolute()),
        "cutoff_len": 256,
        "output_dir": str(output),
        "overwrite_output_dir": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_steps": options.steps,
        "learning_rate": 5.0e-4,
        "seed": 7,
    }
    for word in options.settings:
        key, _, value = word.partition("=")
        settings[key] = yaml.safe_load(value)
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def train(command: Sequence[str], path: Path, ranks: int) -> tuple[list[float], dict[str, Any]]:
    """Losses of every step, and what the trainer says at its end. The log stays beside the job."""
    output = Path(yaml.safe_load(path.read_text(encoding="utf-8"))["output_dir"])
    shutil.rmtree(output, ignore_errors=True)
    variables = {**os.environ, "DISABLE_VERSION_CHECK": "1", "TOKENIZERS_PARALLELISM": "false"}
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        variables |= {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(ranks), "MASTER_PORT": port}
    log = path.with_suffix(".log")
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [*command, str(path)], stdout=file, stderr=file, env=variables, check=False
        )
    if done.returncode:
        said = log.read_text(encoding="utf-8", errors="replace")
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{said[-3000:]}")
    history = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    return losses, history[-1]


def said_by_accel(path: Path) -> list[str]:
    """The lines of a log that accel wrote."""
    log = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    return list(dict.fromkeys(line for line in log.splitlines() if line.startswith("accel:")))


def random_model(folder: Path) -> Path:
    """A Llama of 30 layers, 135 million random weights, with a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: index for index, word in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=special[2], pad_token=special[0]
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def equal(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Alone and under accel, in turns; what each lost and how long each took."""
    random = options.model == "random"
    model = random_model(folder / "model") if random else Path(options.model).absolute()
    commands = {
        "alone": [sys.executable, "-m", "llamafactory.cli", "train"],
        "accel": [sys.executable, "-m", "accel", "llamafactory", "train"],
    }
    losses: dict[str, list[list[float]]] = {name: [] for name in commands}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(options.turns):
        for name, command in commands.items():
            path = job(model, options, folder / f"{name}-{turn}")
            lost, end = train(command, path, options.ranks)
            losses[name].append(lost)
            seconds[name].append(end["train_runtime"])
            print(
                f"{name}: {end['train_runtime']:.1f} s, losses {lost[0]} to {lost[-1]}", flush=True
            )
            for line in said_by_accel(path):
                print(f"  {line}")
    ratio = min(seconds["accel"]) / min(seconds["alone"])
    apart = max(abs(a - b) for a, b in zip(losses["alone"][0], losses["accel"][0], strict=True))
    print(f"largest difference of a loss {apart:g}, seconds with accel / alone {ratio:.3f}")
    return {"losses": losses, "seconds": seconds, "apart": apart, "ratio": ratio}


def quantized(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both formats: the answer about France, and the losses of a LoRA run."""
    from importlib.util import find_spec

    present = [name for name, module in LOADERS.items() if find_spec(module)]
    print(f"other loaders of such checkpoints installed: {', '.join(present) or 'none'}")
    dense = folder / "dense"
    answer = ask(folder, model=dense, gguf=options.model)
    print(f"dense: {answer}", flush=True)
    found: dict[str, Any] = {"dense": {"answer": answer}}
    for kind in ("awq", "gptq"):
        model = folder / kind
        accel("quantize", str(dense), "--output", str(model), "--format", kind)
        answer = ask(folder, model=model)
        path = job(model, options, folder / f"{kind}-run")
        losses, end = train([sys.executable, "-m", "accel", "llamafactory", "train"], path, 1)
        print(f"{kind}: {answer}\n  losses {losses}, {end['train_runtime']:.1f} s", flush=True)
        for line in said_by_accel(path):
            print(f"  {line}")
        found[kind] = {"answer": answer, "losses": losses, "seconds": end["train_runtime"]}
    return found


def accel(*words: str) -> None:
    """The accel command, as a child."""
    subprocess.run([sys.executable, "-m", "accel", *words], check=True, capture_output=True)


def ask(folder: Path, model: Path, gguf: str | None = None) -> str:
    """The greedy answer of a model, converted first where it is a GGUF file, in a child."""
    request: Mapping[str, Any] = {
        "model": str(model),
        "questions": [QUESTION],
        "gguf": gguf and str(Path(gguf).absolute()),
    }
    asked, answered = folder / "request.json", folder / "answer.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "accel_frameworks.demo.asking", str(asked), str(answered)],
        check=True,
    )
    answers: list[str] = json.loads(answered.read_text(encoding="utf-8"))["answers"]
    return answers[0]


def main() -> None:
    """Read the arguments, run, write --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("equal", "quantized"))
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True, help="LLaMA-Factory's data folder")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--keep", type=Path, help="a folder for jobs and logs, else they are lost")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as lost:
        folder = options.keep or Path(lost)
        folder.mkdir(parents=True, exist_ok=True)
        found = {"equal": equal, "quantized": quantized}[options.what](options, folder)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
