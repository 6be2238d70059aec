"""LLaMA-Factory 0.9.5."""

from __future__ import annotations

import contextlib
import os
import sys
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

from failure import SIMULATED, Having, case, program


def job(**options: Any) -> dict[str, Any]:
    """What the parser takes: a training that is never started."""
    return {
        "model_name_or_path": "nowhere",
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "dataset": "identity",
        "template": "qwen",
        "output_dir": os.path.join(os.getcwd(), "out"),
        "report_to": "none",
        **options,
    }


BF16_RANKS = """
import os, sys
os.environ.update(FORCE_TORCHRUN="1", NPROC_PER_NODE="2", LLAMAFACTORY_VERBOSITY="ERROR")
sys.argv = ["llamafactory-cli", "train", sys.argv[1], "bf16=true"]
from llamafactory.cli import main
main()
"""


@case(
    "P5",
    "AWQ without autoawq",
    "The 'autoawq' distribution was not found",
)
def awq_without_autoawq() -> None:
    from llamafactory.model.model_utils.quantization import configure_quantization

    stored = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    config = types.SimpleNamespace(quantization_config=stored)
    arguments = types.SimpleNamespace(
        quantization_bit=None, export_quantization_bit=None, quantization_method="bnb"
    )
    configure_quantization(config, None, arguments, True, {})


@case("P6", "use_unsloth_gc", "Torch not compiled with CUDA enabled")
def unsloth_checkpointing() -> None:
    import torch
    from llamafactory.model.model_utils import checkpointing

    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
    given = torch.randn(2, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        layer(given).sum().backward()
    wanted = given.grad.clone(), layer[0].weight.grad.clone()
    given.grad = layer[0].weight.grad = None
    apply = checkpointing.get_unsloth_gradient_checkpointing_func()
    with torch.autocast("cpu", torch.bfloat16):
        output = apply(layer, given)
    output.sum().backward()
    torch.testing.assert_close((given.grad, layer[0].weight.grad), wanted)


class FakeCards:
    """torch's module of a device type that is not built in."""

    def device_count(self) -> int:
        return 2

    def is_available(self) -> bool:
        return True

    def mem_get_info(self) -> tuple[int, int]:
        return 60, 80

    def empty_cache(self) -> None:
        pass


@case(
    "P10",
    "a device type that it does not know",
    "device cpu, 0 devices",
    how=SIMULATED,
    having=Having(kind="mlu", collective=("cncl",)),
    lasting=True,
)
def unknown_device_type() -> None:
    import torch
    from llamafactory.extras import misc
    from llamafactory.hparams import parser

    if not hasattr(torch, "mlu"):
        torch.utils.rename_privateuse1_backend("mlu")
        torch._register_device_module("mlu", FakeCards())
    device, count = parser.get_current_device(), misc.get_device_count()
    assert (str(device), count) == ("mlu:0", 2), f"device {device}, {count} devices"
    assert misc.get_current_memory() == (60, 80)


@case(
    "P16", "hqq that cannot be", "QuantizationMethod.HQQ is not available yet", environment="flags"
)
def hqq() -> None:
    """Loading gets as far as the error only with weights; asking the quantiser is enough."""
    from llamafactory.model.model_utils.quantization import configure_quantization
    from transformers.quantizers.auto import AutoHfQuantizer

    config = types.SimpleNamespace()
    arguments = types.SimpleNamespace(
        quantization_bit=4,
        export_quantization_bit=None,
        quantization_method="hqq",
        quantization_device_map=None,
        quantization_type="nf4",
        double_quantization=True,
        compute_dtype=None,
    )
    found: dict[str, Any] = {}
    configure_quantization(config, None, arguments, True, found)
    quantiser = AutoHfQuantizer.from_config(found["quantization_config"], pre_quantized=False)
    quantiser.get_quantize_ops()


@contextlib.contextmanager
def launched() -> Iterator[list[dict[str, str]]]:
    """`llamafactory-cli train` up to the point where torchrun would be started."""
    seen: list[dict[str, str]] = []

    def run(command: Any, env: dict[str, str], check: bool) -> Any:
        seen.append(dict(env))
        return types.SimpleNamespace(returncode=0)

    variables = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    argv = ["llamafactory-cli", "train", "job.yaml"]
    with (
        mock.patch("subprocess.run", run),
        mock.patch.dict(os.environ, variables),
        mock.patch.object(sys, "argv", argv),
        contextlib.suppress(SystemExit),
    ):
        yield seen


@case("P20", "CUDA settings for every rank", "PYTORCH_CUDA_ALLOC_CONF is exported")
def exported_settings() -> None:
    from llamafactory import launcher

    with launched() as seen:
        launcher.launch()
    (environment,) = seen
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "TORCH_NCCL_AVOID_RECORD_STREAMS"):
        assert name not in environment, f"{name} is exported"


@case(
    "H1",
    "a reward model without a device",
    "Torch not compiled with CUDA enabled",
)
def reward_scores() -> None:
    import torch
    from llamafactory.chat.hf_engine import HuggingfaceEngine
    from transformers import BatchEncoding

    class Model:
        config = types.SimpleNamespace(max_position_embeddings=8)
        pretrained_model = types.SimpleNamespace()

        def __call__(self, input_ids: Any, attention_mask: Any, **_: Any) -> tuple[Any]:
            return (input_ids.float(),)

    def tokenizer(batch: list[str], **_: Any) -> Any:
        ids = torch.ones(len(batch), 3, dtype=torch.long)
        return BatchEncoding({"input_ids": ids, "attention_mask": ids})

    assert len(HuggingfaceEngine._get_scores(Model(), tokenizer, ["a", "b"], {})) == 2


program(
    "P16",
    "liger without a driver",
    "0 active drivers",
    "import sys\n"
    "sys.argv = ['llamafactory-cli', 'train', sys.argv[1], 'enable_liger_kernel=true']\n"
    "from llamafactory.cli import main; main()",
    environment="liger",
    arguments=("TRAIN_YAML",),
    by_hand=True,
    variables={"LLAMAFACTORY_VERBOSITY": "ERROR"},
    said=("enable_liger_kernel: true: liger_kernel is off",),
)
program(
    "P1",
    "ranks under torchrun",
    "Your setup doesn't support bf16/gpu",
    BF16_RANKS,
    long=True,
    arguments=("TRAIN_YAML",),
    by_hand=True,
    said=("accel: rank 0/2", "accel: rank 1/2"),
)
