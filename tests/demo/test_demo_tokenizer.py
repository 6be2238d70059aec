"""The converted model's tokenizer keeps its spaces whatever version of transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import accel
from accel_frameworks.demo.asking import name_tokenizer

TEXT = "The capital of France is Paris."


def byte_level(folder: Path, named: str) -> Path:
    """A tokenizer with its spaces in the words (Ġ), in a folder of a Llama model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([TEXT], trainers.BpeTrainer(initial_alphabet=alphabet))
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": named, "eos_token": "T", "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("named", ["LlamaTokenizer", "TokenizersBackend", "GPT2Tokenizer"])
def test_spaces_are_kept(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEL_PROBE", "0")
    folder = byte_level(tmp_path / "model", named)
    name_tokenizer(folder)
    report = accel.auto("cpu")  # some environments cannot import transformers without it
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.decode(tokenizer(TEXT, add_special_tokens=False)["input_ids"]) == TEXT
    finally:
        report.revert()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["eos_token"] == "T"


def test_a_tokenizer_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    name_tokenizer(tmp_path)
    assert "LlamaTokenizer" in (tmp_path / "tokenizer_config.json").read_text()
