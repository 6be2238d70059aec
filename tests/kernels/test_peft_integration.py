"""LoRA and DoRA over quantised layers: learning, merging, the way back, saving."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from accel.errors import InputError
from accel_kernels.layer import DenseLinear, QuantizedLinear
from tiny_models import logits, relative, tokens

pytestmark = [
    pytest.mark.usefixtures("served"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file"),
]
LAYERS = 7 * tiny_models.LAYERS


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype)


def with_lora(model: Any, **changes: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    settings: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(**{**settings, **changes}))


def train(model: Any, steps: int = 20, autocast: torch.dtype | None = None) -> list[float]:
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in learnt} == {torch.float32}
    optimizer = torch.optim.AdamW(learnt, lr=3e-2)
    losses = []
    model.train()
    for _ in range(steps):
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            loss = model(input_ids=tokens(), labels=tokens()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def bases(model: Any) -> list[QuantizedLinear]:
    return [module for module in model.modules() if isinstance(module, QuantizedLinear)]


def stored(model: Any) -> list[torch.Tensor]:
    return [tensor.clone() for layer in bases(model) for tensor in layer.packed]


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("name", ["llama-awq", "qwen2-gptq"])
def test_training_merging_and_the_way_back(
    name: str, dora: bool, checkpoints: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    from accel_kernels.integrations import peft

    peft._said.clear()
    model = with_lora(load(checkpoints[name]), use_dora=dora)
    assert len(bases(model)) == LAYERS
    losses = train(model)
    assert losses[-1] < 0.7 * losses[0]
    expected, before = logits(model), stored(model)

    with caplog.at_level(logging.WARNING, logger="accel"):
        model.merge_adapter()
    assert [r for r in caplog.records if "gives plain layers in float32" in r.message]
    assert not bases(model)
    assert relative(logits(model), expected) < 1e-4
    with model.disable_adapter():  # which unmerges by itself
        untouched = logits(load(checkpoints[name]))
        assert relative(logits(model), untouched) < 1e-6
    assert len(bases(model)) == LAYERS
    assert all(torch.equal(a, b) for a, b in zip(before, stored(model), strict=True))
    assert relative(logits(model), expected) < 1e-6


def test_the_gradient_of_an_adapter_is_that_over_the_dequantised_layer(
    checkpoints: dict[str, Path],
) -> None:
    model = load(checkpoints["qwen2-gptq"])
    twin = load(checkpoints["qwen2-gptq"])
    twin.dequantize()
    gradients = []
    for base in (model, twin):
        wrapped = with_lora(base)
        with torch.no_grad():
            for key, parameter in wrapped.named_parameters():
                if "lora_B" in key:
                    made = torch.Generator().manual_seed(len(key))
                    parameter.copy_(torch.randn(parameter.shape, generator=made) * 0.05)
        wrapped(input_ids=tokens(), labels=tokens()).loss.backward()
        gradients.append(
            {key: p.grad for key, p in wrapped.named_parameters() if p.grad is not None}
        )
    ours, plain = gradients
    assert ours.keys() == plain.keys()
    assert len(ours) == 2 * LAYERS
    assert all(relative(ours[key], plain[key]) < 1e-4 for key in ours)


def test_float32_adapters_under_bfloat16_autocast(checkpoints: dict[str, Path]) -> None:
    from peft import prepare_model_for_kbit_training

    model = load(checkpoints["llama-gptq"], torch.bfloat16)
    model = prepare_model_for_kbit_training(
        model, gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    model.config.use_cache = False
    wrapped = with_lora(model)
    losses = train(wrapped, autocast=torch.bfloat16)
    assert losses[-1] < 0.7 * losses[0]
    expected = logits(wrapped)
    wrapped.merge_adapter()  # into bfloat16, while the norms are float32 by now
    assert relative(logits(wrapped), expected) < 5e-2


def test_gradient_checkpointing_gives_the_same_gradients(checkpoints: dict[str, Path]) -> None:
    model = with_lora(load(checkpoints["llama-awq"]))
    model.config.use_cache = False
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        model.zero_grad()
        model(input_ids=tokens(), labels=tokens()).loss.backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) == 2 * LAYERS
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_an_adapter_is_saved_loaded_and_merged_for_good(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    from peft import PeftModel

    model = with_lora(load(checkpoints["llama-gptq"]), target_modules=["q_proj", "v_proj"])
    train(model, steps=3)
    expected = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(load(checkpoints["llama-gptq"]), tmp_path / "adapter")
    assert torch.equal(logits(again), expected)

    merged = again.merge_and_unload()
    assert sum(isinstance(module, DenseLinear) for module in merged.modules()) == 4
    assert len(bases(merged)) == LAYERS - 4
    assert relative(logits(merged), expected) < 1e-4
    merged.save_pretrained(tmp_path / "merged")
    config = json.loads((tmp_path / "merged/config.json").read_text())["quantization_config"]
    assert len(config["dynamic"]) == 4
    reloaded = load(tmp_path / "merged")
    assert len(bases(reloaded)) == LAYERS - 4
    assert relative(logits(reloaded), expected) < 1e-4


def test_a_model_merged_everywhere_is_saved_as_a_plain_one(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    model = with_lora(load(checkpoints["llama-awq"], torch.bfloat16))
    train(model, steps=2)
    expected = logits(model)
    model.merge_and_unload().save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = load(tmp_path, torch.bfloat16)
    assert not bases(again)
    assert relative(logits(again), expected) < 5e-2


def test_two_adapters_on_one_layer(checkpoints: dict[str, Path]) -> None:
    from peft import LoraConfig

    model = with_lora(load(checkpoints["llama-awq"]))
    train(model, steps=2)
    expected = logits(model)
    model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear"))
    model.set_adapter("second")
    assert torch.equal(logits(model), logits(load(checkpoints["llama-awq"])))
    model.set_adapter("default")
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("start", ["pissa", "olora", "loftq"])
def test_starts_that_change_the_base_weight_are_an_error(
    start: str, checkpoints: dict[str, Path]
) -> None:
    changes: dict[str, Any] = {"init_lora_weights": start}
    if start == "loftq":
        from peft import LoftQConfig

        changes["loftq_config"] = LoftQConfig(loftq_bits=4)
        pytest.importorskip("scipy")
    with pytest.raises(InputError, match="changes the base weight, which is quantised"):
        with_lora(load(checkpoints["llama-awq"]), **changes)


def test_plain_models_keep_pefts_own_layers(checkpoints: dict[str, Path]) -> None:
    from peft.tuners.lora import Linear

    model = with_lora(load(checkpoints["llama"]))
    found = [module for module in model.modules() if isinstance(module, Linear)]
    assert {type(module) for module in found} == {Linear}
    assert len(found) == LAYERS
