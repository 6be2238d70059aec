"""The flag table: what each flag of LLaMA-Factory comes to on a plain CPU, before and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

TRAINS = "trains"
REFUSED = "refused"


@dataclasses.dataclass(frozen=True)
class Row:
    """One flag. `before` is in the error without accel; empty where it ends well, in silence.

    `after` is TRAINS or REFUSED, `said` a piece of the line that must be in the report (empty:
    nothing to say). `strict` is what it comes to under ACCEL_STRICT=1; a `program` row needs
    processes of its own.
    """

    name: str
    flags: Mapping[str, Any]
    before: str
    said: str = ""
    after: str = TRAINS
    strict: str = REFUSED
    environment: str = "test"
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    program: bool = False


MODEL = "model_name_or_path"
AWQ = "the model of the job, as `accel quantize` rounds it"

BITS = {"quantization_bit": 4, "quantization_method": "hqq"}
RANKS = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
PREDICT = {
    "do_train": False,
    "do_predict": True,
    "predict_with_generate": True,
    "eval_dataset": "tiny",
    "max_new_tokens": 4,
}
ZERO = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": "auto"},
}

ROWS = (
    Row("flash_attn: fa2", {"flash_attn": "fa2"}, "", "flash_attention_2 was asked for, sdpa is"),
    Row(
        "flash_attn: fa3",
        {"flash_attn": "fa3"},
        "NotImplementedError: Unknown attention type: fa3",
        "flash_attention_3 was asked for, sdpa is used",
    ),
    Row("bf16", {"bf16": True}, "Your setup doesn't support bf16/gpu", strict=TRAINS),
    Row(
        "pure_bf16",
        {"pure_bf16": True},
        "This device does not support `pure_bf16`",
        strict=TRAINS,
    ),
    Row("fp16", {"fp16": True}, "", "float16 was asked for"),
    Row("fp8", {"fp8": True}, "", "fp8: true: fp8 is off, float32 is used"),
    Row(
        "quantization_bit: 4, no bitsandbytes",
        {"quantization_bit": 4},
        "PackageNotFoundError",
        "quantization_bit: 4 cannot be had without bitsandbytes",
        after=REFUSED,
    ),
    Row("quantization_bit: 4", {"quantization_bit": 4}, "", strict=TRAINS, environment="flags"),
    Row("quantization_bit: 8", {"quantization_bit": 8}, "", strict=TRAINS, environment="flags"),
    Row("hqq, no hqq", BITS, "PackageNotFoundError", "hqq is not installed", after=REFUSED),
    Row(
        "hqq",
        BITS,
        "QuantizationMethod.HQQ is not available yet",
        "bitsandbytes in 4 bits is used",
        environment="flags",
    ),
    Row(
        "use_unsloth, no unsloth",
        {"use_unsloth": True},
        "PackageNotFoundError",
        "use_unsloth: true: unsloth is off",
    ),
    Row(
        "use_unsloth",
        {"use_unsloth": True},
        "",
        "use_unsloth: true: unsloth is off",
        environment="unsloth",
    ),
    Row(
        "enable_liger_kernel, no liger",
        {"enable_liger_kernel": True},
        "PackageNotFoundError",
        "enable_liger_kernel: true: liger_kernel is off",
    ),
    Row(
        "enable_liger_kernel, no triton",
        {"enable_liger_kernel": True},
        "No module named 'triton'",
        "enable_liger_kernel: true: liger_kernel is off",
        environment="liger-no-triton",
    ),
    Row(
        "enable_liger_kernel",
        {"enable_liger_kernel": True},
        "0 active drivers",
        "enable_liger_kernel: true: liger_kernel is off",
        environment="liger",
    ),
    Row(
        "use_unsloth_gc",
        {"use_unsloth_gc": True},
        "Torch not compiled with CUDA enabled",
        strict=TRAINS,
    ),
    Row("tf32", {"tf32": True}, "--tf32 requires Ampere", "(tf32=True): tf32 is off"),
    Row(
        "ddp_backend: nccl",
        {"ddp_backend": "nccl"},
        "Default process group has not been initialized",
        "ddp_backend: nccl: nccl was asked for, gloo is used",
    ),
    Row(
        "ddp_backend: nccl, two ranks",
        {"ddp_backend": "nccl"},
        "nccl",
        "ddp_backend: nccl: nccl was asked for, gloo is used",
        variables=RANKS,
        program=True,
    ),
    Row(
        "optim: adamw_apex_fused",
        {"optim": "adamw_apex_fused"},
        "apex is not installed",
        "adamw_torch is used",
    ),
    Row(
        "optim: adamw_torch_npu_fused",
        {"optim": "adamw_torch_npu_fused"},
        "failed to import FusedAdamW from torch_npu",
        "adamw_torch is used",
    ),
    Row(
        "an AWQ model",
        {MODEL: AWQ},
        "The 'autoawq' distribution was not found",
        "quantised layers are served",
        strict=TRAINS,
    ),
    Row(
        "predict_with_generate, its packages there",
        PREDICT,
        "",
        strict=TRAINS,
        environment="metrics",
    ),
    Row(
        "predict_with_generate",
        PREDICT,
        "The 'jieba' distribution was not found",
        "predictions are written, without BLEU and ROUGE scores",
    ),
    Row(
        "deepspeed, no deepspeed",
        {"deepspeed": {**ZERO, "zero_optimization": {"stage": 2}}},
        "deepspeed",
        "asks for DeepSpeed, which is not installed",
        after=REFUSED,
        program=True,
    ),
    Row(
        "deepspeed, ZeRO-2",
        {"deepspeed": {**ZERO, "zero_optimization": {"stage": 2}}},
        "Please use `FORCE_TORCHRUN=1`",
        "FORCE_TORCHRUN=1, because DeepSpeed trains in ranks only",
        strict=TRAINS,
        environment="deepspeed",
        program=True,
    ),
    Row(
        "deepspeed, ZeRO-3 with offload, two ranks",
        {
            "deepspeed": {
                **ZERO,
                "zero_optimization": {
                    "stage": 3,
                    "offload_param": {"device": "cpu", "pin_memory": True},
                    "offload_optimizer": {"device": "cpu", "pin_memory": True},
                },
            },
            "bf16": True,
        },
        "Your setup doesn't support bf16/gpu",
        "there is nothing to offload from",
        environment="deepspeed",
        variables=RANKS,
        program=True,
    ),
)
