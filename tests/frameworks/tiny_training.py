"""A tiny model and a training of it, as fixtures for whoever imports them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = ("who", "are", "you", "i", "am", "an", "assistant", "what", "is", "the", "sun", "red")
SPECIAL = ("<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
HIDDEN, LAYERS, HEADS, MLP = 32, 2, 4, 64


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama and a word tokenizer, written without transformers."""
    folder = tmp_path_factory.mktemp("tiny_model")
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    _write_tokenizer(folder, vocabulary)
    _write_weights(folder, len(vocabulary))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 512,
        "vocab_size": len(vocabulary),
        "bos_token_id": 1,
        "eos_token_id": 3,
        "pad_token_id": 1,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _write_tokenizer(folder: Path, vocabulary: dict[str, int]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _write_weights(folder: Path, words: int) -> None:
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(20)

    def matrix(rows: int, columns: int) -> Any:
        return torch.randn(rows, columns, generator=random) * 0.05

    weights = {
        "model.embed_tokens.weight": matrix(words, HIDDEN),
        "model.norm.weight": torch.ones(HIDDEN),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name in ("q", "k", "v", "o"):
            weights[f"{prefix}self_attn.{name}_proj.weight"] = matrix(HIDDEN, HIDDEN)
        weights[f"{prefix}mlp.gate_proj.weight"] = matrix(MLP, HIDDEN)
        weights[f"{prefix}mlp.up_proj.weight"] = matrix(MLP, HIDDEN)
        weights[f"{prefix}mlp.down_proj.weight"] = matrix(HIDDEN, MLP)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}{name}.weight"] = torch.ones(HIDDEN)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


def write_job(folder: Path, model: Path, **options: Any) -> Path:
    """A LLaMA-Factory configuration in `folder` that trains `model`, with its data."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    turns = [
        {"instruction": "who are you", "input": "", "output": "i am an assistant"},
        {"instruction": "what is the sun", "input": "", "output": "the sun is red"},
    ] * 8
    (data / "tiny.json").write_text(json.dumps(turns), encoding="utf-8")
    (data / "dataset_info.json").write_text(
        json.dumps({"tiny": {"file_name": "tiny.json"}}), encoding="utf-8"
    )
    settings: dict[str, Any] = {
        "model_name_or_path": str(model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 4,
        "lora_target": "all",
        "dataset_dir": str(data),
        "dataset": "tiny",
        "template": "qwen",
        "cutoff_len": 64,
        "preprocessing_num_workers": 1,
        "dataloader_num_workers": 0,
        "report_to": "none",
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 2,
        "learning_rate": 1.0e-2,
        "max_steps": 3,
        "logging_steps": 1,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "seed": 7,
        **options,
    }
    path = folder / "train.yaml"
    # JSON is YAML
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return path


@pytest.fixture
def training_yaml(tmp_path: Path, tiny_model: Path) -> Callable[..., Path]:
    """A LLaMA-Factory configuration that trains the tiny model for three steps, and its data."""

    def write(**options: Any) -> Path:
        return write_job(tmp_path, tiny_model, **options)

    return write
