"""transformers, accelerate, peft and trl."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from failure import RECORDED, SIMULATED, Having, case, program


def arguments(**options: Any) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        **options,
    )


def tiny_llama(dtype: str = "float32") -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(1)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=64,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).to(getattr(torch, dtype))


def rows(count: int = 16) -> list[dict[str, Any]]:
    import torch

    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(count):
        ids = torch.randint(4, 64, (8,), generator=generator)
        found.append({"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)})
    return found


@case("P4", "bf16 on a CPU that has it", "Your setup doesn't support bf16/gpu")
def bf16() -> None:
    assert arguments(bf16=True).mixed_precision == "bf16"


@case(
    "P7",
    "FlashAttention in 5.6.0",
    "'NoneType' object has no attribute 'to'",
    how=SIMULATED,
    having=Having(kind="cuda", attention=("flash_attention_2", "sdpa", "eager")),
)
def no_sink() -> None:
    import torch
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    seen = []
    module = mock.Mock(is_causal=True)
    query = torch.zeros(1, 2, 3, 4, dtype=torch.bfloat16)
    with mock.patch(
        "transformers.integrations.flash_attention._flash_attention_forward",
        lambda *args, **kwargs: seen.append(kwargs["s_aux"]) or args[0],
    ):
        ALL_ATTENTION_FUNCTIONS["flash_attention_2"](module, query, query, query, None)
    assert seen == [None]


@case("P11", "a backend that is another device's", "Default process group has not been initialized")
def backend() -> None:
    assert arguments(ddp_backend="nccl", use_cpu=False).device.type == "cpu"


@case("P13", "trainable float16", "nan")
def float16_adapters() -> None:
    import peft
    from transformers import Trainer

    model = peft.get_peft_model(
        tiny_llama("float16"),
        peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]),
        autocast_adapter_dtype=False,
    )
    trainer = Trainer(
        model=model,
        args=arguments(max_steps=4, logging_steps=1, learning_rate=1e-3, optim="adamw_torch"),
        train_dataset=rows(),
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 4
    assert all(loss > 0 for loss in losses), f"{losses}, nan"


@case("P18", "flash_attn without metadata", "KeyError: 'flash_attn'")
def no_metadata() -> None:
    from transformers.utils import import_utils

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "flash_attn").mkdir()
        Path(folder, "flash_attn", "__init__.py").touch()
        with mock.patch.object(sys, "path", [folder, *sys.path]):
            import_utils.is_flash_attn_2_available.cache_clear()  # somebody may have asked before
            assert import_utils.is_flash_attn_2_available() is False


OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 GiB"


def failing(limit: int) -> Any:
    """A Trainer on a card that takes `limit` rows at once."""
    import torch
    from transformers import Trainer

    class Small(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if len(inputs["input_ids"]) > limit:
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            return super().compute_loss(model, inputs, *args, **kwargs)

    return Small


def enough(limit: int) -> Any:
    """The same with memory for all."""
    return failing(1000)


def trained(kind: Any) -> tuple[list[float], float]:
    trainer = kind(
        model=tiny_llama(),
        args=arguments(
            max_steps=3,
            logging_steps=1,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            per_device_eval_batch_size=8,
            learning_rate=1e-2,
            seed=5,
        ),
        train_dataset=rows(),
        eval_dataset=rows(8),
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses, float(trainer.evaluate()["eval_loss"])


@case("P19", "out of memory", OUT_OF_MEMORY)
def out_of_memory() -> None:
    import torch

    found, wanted = trained(failing(1)), trained(failing(1000))
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(wanted[0]), rtol=1e-4, atol=0)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=0)


@case(
    "P24",
    "gptqmodel without optimum",
    "gptqmodel requires optimum version",
    environment="gptqmodel",
)
def plain_lora() -> None:
    import peft

    peft.get_peft_model(tiny_llama(), peft.LoraConfig(r=2, target_modules=["q_proj"]))


@contextlib.contextmanager
def nvml_on_the_side(seen: list[int]) -> Iterator[None]:
    """A box in which NVML numbers all cards, and only one is visible."""
    fake: Any = types.ModuleType("pynvml")
    fake.nvmlInit = lambda: None
    fake.nvmlDeviceGetHandleByIndex = lambda index: seen.append(index) or index
    fake.nvmlDeviceGetCpuAffinity = lambda handle, number: [1]
    with (
        mock.patch.dict(sys.modules, pynvml=fake),
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("accelerate.utils.is_pynvml_available", return_value=True),
        mock.patch("os.sched_setaffinity", return_value=None),
    ):
        yield


@case(
    "P26",
    "a rank's number for a card's",
    "bound to the processors of card 0, not 6",
    how=RECORDED,
    having=Having(
        kind="cuda",
        vendor="nvidia",
        arch="sm_90",
        machine="h200-x8",
        variables={"CUDA_VISIBLE_DEVICES": "6"},
    ),
)
def near_card() -> None:
    from accelerate.utils import environment

    seen: list[int] = []
    with nvml_on_the_side(seen):
        environment.override_numa_affinity(0)
    assert seen == [6], f"bound to the processors of card {seen[0]}, not 6"


@case(
    "H2",
    "cncl overwritten",
    "DistributedType.MULTI_GPU",
    how=SIMULATED,
    having=Having(kind="mlu", collective=("cncl", "gloo")),
)
def overwritten_backend() -> None:
    import torch
    from accelerate import state

    cuda = mock.patch.object(torch.cuda, "is_available", return_value=True)
    mlu = mock.patch("accelerate.state.is_mlu_available", return_value=True)
    with cuda, mlu, mock.patch.dict(os.environ, LOCAL_RANK="0"):
        backend, kind = state.PartialState._prepare_backend(mock.Mock())
    assert (backend, str(kind)) == ("cncl", "DistributedType.MULTI_MLU"), (backend, str(kind))


@case("H3", "trainable tokens under ZeRO-3", "Torch not compiled with CUDA enabled")
def trainable_tokens() -> None:
    import torch
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

    weight = torch.arange(12.0).reshape(4, 3)
    with (
        mock.patch("torch.distributed.is_initialized", return_value=True),
        mock.patch("torch.distributed.get_rank", return_value=0),
        mock.patch("torch.distributed.broadcast", return_value=None),
    ):
        found = TrainableTokensLayer._collect_token_weights(
            mock.Mock(), weight, torch.tensor([2, 0]), 3
        )
    assert torch.equal(found, weight[[2, 0]])


@case("H4", "DoRA with ephemeral offload", "Torch not compiled with CUDA enabled")
def dora() -> None:
    import peft

    config = peft.LoraConfig(
        r=2,
        target_modules=["q_proj"],
        use_dora=True,
        runtime_config=peft.LoraRuntimeConfig(ephemeral_gpu_offload=True),
    )
    model = peft.get_peft_model(tiny_llama(), config)
    assert any("lora_magnitude_vector" in name for name, _ in model.named_parameters())


class Sharded:
    """A parameter that FSDP 2 keeps on the host."""

    is_cpu = True

    def to(self, device: Any) -> Any:
        import torch

        torch.zeros(1).to(device)
        return self

    def full_tensor(self) -> Any:
        return "whole"


def synced(module: str, trainer: str) -> None:
    import importlib

    method = getattr(importlib.import_module(f"trl.trainer.{module}"), trainer)
    loaded: list[Any] = []
    fake = mock.MagicMock(vllm_mode="colocate")
    fake.llm.llm_engine.model_executor.driver_worker.model_runner.model.load_weights = loaded.append
    model = types.SimpleNamespace(state_dict=lambda: {"w": Sharded()})
    method._sync_fsdp2_params_to_vllm(fake, model)
    assert loaded == [[("w", "whole")]]


@case("H5", "GRPO and vLLM", "Torch not compiled with CUDA enabled")
def grpo() -> None:
    synced("grpo_trainer", "GRPOTrainer")


@case("H5", "RLOO and vLLM", "Torch not compiled with CUDA enabled")
def rloo() -> None:
    synced("rloo_trainer", "RLOOTrainer")


@case("H5", "online DPO and vLLM", "Torch not compiled with CUDA enabled")
def online_dpo() -> None:
    synced("online_dpo_trainer", "OnlineDPOTrainer")


program(
    "V1",
    "trl and transformers 5",
    "No module named 'mergekit'",
    "from trl import DPOTrainer, GRPOTrainer\n"
    "from trl.import_utils import is_mergekit_available\n"
    "print(DPOTrainer, GRPOTrainer)\n"
    "assert is_mergekit_available() is False",
    by_hand=True,
    long=True,
)
