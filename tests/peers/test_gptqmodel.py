"""gptqmodel reads what accel writes, and accel what gptqmodel writes, to the same numbers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import accel
import tiny_models
from accel_kernels.layer import QuantizedLinear
from gptqmodel_child import IDS

pytestmark = [
    pytest.mark.peers,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(
        importlib.util.find_spec("gptqmodel") is None, reason="no gptqmodel: make test-peers"
    ),
]
AWQ = {"method": "awq", "format": "gemm"}
ACT_ORDER = {"desc_act": True, "act_group_aware": False}
EXPERTS = ("qwen2_moe", "qwen3_moe", "mixtral")
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


def child(*arguments: str | Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("gptqmodel_child.py"))]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(arguments[-1]).parent,  # gptqmodel leaves its log where it runs
        # With one thread gptqmodel does not import; with one worker it does not start.
        env={**os.environ, "OMP_NUM_THREADS": "2", "GPTQMODEL_CPU_WORKERS": "2"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models, `qwen2` with its biases, each with a tokenizer, which gptqmodel asks for."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = {}
    for kind in ("llama", "qwen2", *EXPERTS):
        folder = tmp_path_factory.mktemp("plain") / kind
        # gptqmodel's AWQ takes no layer of fewer than 64 output features
        wide = {"moe_intermediate_size": 64, "head_dim": 32} if kind in EXPERTS[:2] else {}
        tiny_models.plain(folder, kind, changes={**SIZES, **wide})
        words = {f"w{index}": index for index in range(tiny_models.VOCABULARY)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token="w2", pad_token="w0", unk_token="w0"
        ).save_pretrained(folder)
        made[kind] = folder
    return made


def ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What accel computes, under the names that the child uses."""
    monkeypatch.setenv("ACCEL_PROBE", "0")
    report = accel.auto("cpu")
    try:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float16)
        found = {"logits": tiny_models.logits(model, torch.tensor(IDS)).float()}
        for name, module in model.named_modules():
            if isinstance(module, QuantizedLinear):
                found[name] = module.dequantize(torch.float16)
        return found
    finally:
        report.revert()


def agree(found: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """The same layers with the same weights, to a rounding of float16, and the same logits."""
    assert found.keys() == theirs.keys()
    assert len(found) > 7
    for name, tensor in found.items():
        allowed = 1e-2 if name == "logits" else 6e-4
        assert tiny_models.relative(theirs[name], tensor) < allowed, name


@pytest.mark.parametrize("way", ["gptqmodel", "transformers"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize(
    ("format", "changes"),
    [
        ("awq", {}),
        ("gptq", {}),
        ("gptq", {"group_size": -1}),
        ("gptq", {"bits": 8, "group_size": 64}),
        ("gptq", {"bits": 2}),
        ("gptq", {"bits": 3}),
    ],
    ids=["awq", "gptq", "gptq-per-channel", "gptq-8", "gptq-2", "gptq-3"],
)
def test_what_accel_writes_is_read_by_others(
    way: str, kind: str, format: str, changes: dict[str, Any],  # noqa: A002
    plain: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tiny_models.quantized(plain[kind], tmp_path / "made", format, **changes)
    child("read", way, folder, tmp_path / "theirs.safetensors")
    agree(ours(folder, monkeypatch), load_file(tmp_path / "theirs.safetensors"))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 4, "group_size": 32, "sym": True, "desc_act": False},
        {"bits": 4, "group_size": 32, "sym": True, **ACT_ORDER},
        {"bits": 4, "group_size": 32, "sym": False, "desc_act": False},
        {"bits": 4, "group_size": 64, "sym": False, **ACT_ORDER, "format": "gptq_v2"},
        {"bits": 4, "group_size": -1, "sym": True, **ACT_ORDER},
        {"bits": 8, "group_size": 128, "sym": True, "desc_act": False},
        {"bits": 3, "group_size": 32, "sym": True, "desc_act": False},
        {"bits": 2, "group_size": 32, "sym": True, **ACT_ORDER},
        {"bits": 4, "group_size": 32, "dynamic": {r"-:.*layers\.0\.mlp.*": {}}},
        {"bits": 4, "group_size": 32, "dynamic": {r".*down_proj": {"bits": 8, "group_size": 64}}},
        {"bits": 4, "group_size": 64, **AWQ},
        {"bits": 4, "group_size": 128, **AWQ, "sym": False},
    ],
    ids=[
        "sym", "act-order", "asymmetric", "asymmetric-v2-act-order", "per-channel", "8-bits",
        "3-bits", "2-bits-act-order", "layers-left-out", "a-layer-in-8-bits", "awq",
        "awq-asymmetric",
    ],
)  # fmt: skip
def test_what_gptqmodel_writes_is_read_by_accel(
    kind: str, settings: dict[str, Any], plain: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made, theirs = tmp_path / "made", tmp_path / "theirs.safetensors"
    child("make", json.dumps(settings), plain[kind], made, theirs)
    agree(ours(made, monkeypatch), load_file(theirs))


@pytest.mark.parametrize("format", ["awq", "gptq"])
@pytest.mark.parametrize("kind", EXPERTS[:2])
def test_experts_that_accel_writes(
    kind: str, format: str, plain: dict[str, Path], tmp_path: Path,  # noqa: A002
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tiny_models.quantized(plain[kind], tmp_path / "made", format)
    child("read", "gptqmodel", folder, tmp_path / "theirs.safetensors")
    theirs = load_file(tmp_path / "theirs.safetensors")
    agree(ours(folder, monkeypatch), theirs)


@pytest.mark.parametrize(
    "settings",
    [{"bits": 4, "group_size": 32}, {"bits": 4, "group_size": 32, **AWQ}],
    ids=["gptq", "awq"],
)
@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_that_gptqmodel_writes(
    kind: str, settings: dict[str, Any], plain: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made, theirs = tmp_path / "made", tmp_path / "theirs.safetensors"
    child("make", json.dumps(settings), plain[kind], made, theirs)
    agree(ours(made, monkeypatch), load_file(theirs))
