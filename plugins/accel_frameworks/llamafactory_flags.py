"""LLaMA-Factory's flags: each is had, replaced by the nearest that works, or refused; all said."""

from __future__ import annotations

import functools
from collections.abc import Callable

from accel.errors import CapabilityUnavailable
from accel.values import Feature, Patch
from accel_frameworks import checkpointing, precision
from accel_frameworks.switching import instead, missing, refusal

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

DISTRIBUTION = "llamafactory"
VERSIONS = ">=0.9.4,<0.10"
ISSUES = "https://github.com/hiyouga/LLaMA-Factory/issues"
SOURCE = "https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory"

TRITON_FLAGS = {
    "enable_liger_kernel": ("liger_kernel", "its kernels are Triton"),
    "use_unsloth": ("unsloth", "its kernels are Triton"),
}
FP8_PACKAGES = {"te": "transformer_engine", "msamp": "msamp"}
METRICS = ("jieba", "nltk", "rouge_chinese")
BITSANDBYTES_BITS = (4, 8)


def patches(capabilities: Capabilities) -> list[Patch]:
    """For every device: what differs is asked of `capabilities` when it is needed."""
    return [
        Patch(
            target="llamafactory.hparams.parser:_parse_train_args",
            reason="flags that the device cannot honour end in an error (pure_bf16, liger, "
            "unsloth) or are silently ignored (fp8)",
            replace=lambda original: parsed(original, capabilities),
            distribution=DISTRIBUTION,
            versions=VERSIONS,
            upstream=f"{ISSUES}/10386",
            until="LLaMA-Factory falls back by itself, and says so",
            symptom="RuntimeError: 0 active drivers ([]). There should only be one.",
        ),
        Patch(
            target="llamafactory.model.model_utils.checkpointing"
            ":get_unsloth_gradient_checkpointing_func",
            reason="it brings the hidden states back to `cuda`, and remembers CUDA's autocast only",
            replace=checkpointing.on_any_device,
            distribution=DISTRIBUTION,
            versions=VERSIONS,
            upstream="https://github.com/hiyouga/LLaMA-Factory/pull/10828",
            until="LLaMA-Factory remembers the device",
            symptom="AssertionError: Torch not compiled with CUDA enabled, with use_unsloth_gc",
        ),
        Patch(
            target="llamafactory.hparams.parser:_check_extra_dependencies",
            reason="predict_with_generate, which the web page's evaluation always sends, asks for "
            "three packages although only the scores need them",
            replace=lambda original: _without_scores(original, capabilities),
            distribution=DISTRIBUTION,
            versions=VERSIONS,
            parameters=("training_args",),
            upstream=f"{SOURCE}/hparams/parser.py#L236",
            until="LLaMA-Factory predicts without them",
            symptom="importlib.metadata.PackageNotFoundError: The 'jieba' distribution was not "
            "found and is required by this application",
        ),
        Patch(
            target="llamafactory.train.sft.metric:ComputeSimilarity.__call__",
            reason="it scores with packages that may not be there",
            replace=_scored,
            distribution=DISTRIBUTION,
            versions=VERSIONS,
            upstream=f"{SOURCE}/train/sft/metric.py#L44",
            until="LLaMA-Factory predicts without them",
            symptom="NameError: name 'jieba' is not defined",
        ),
        Patch(
            target="llamafactory.model.model_utils.quantization:configure_quantization",
            reason="quantization_bit without its package is an error in the middle of loading, "
            "and hqq one that does not say what would work",
            replace=lambda original: _quantised(original, capabilities),
            distribution=DISTRIBUTION,
            versions=VERSIONS,
            parameters=("config", "model_args"),
            upstream=f"{ISSUES}/10386",
            until="LLaMA-Factory checks its quantisation before loading",
            symptom="NotImplementedError: QuantizationMethod.HQQ is not available yet and will be "
            "supported soon.",
        ),
    ]


def parsed(original: Callable[..., Any], capabilities: Capabilities) -> Callable[..., Any]:
    """`_parse_train_args`, its result settled before LLaMA-Factory checks it."""

    @functools.wraps(original)
    def parse(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        model, _data, training, finetuning, _generating = result
        _pure_bf16(training, finetuning, capabilities)
        _triton_flags(model, capabilities)
        _fp8(training, capabilities)
        return result

    return parse


def _pure_bf16(training: Any, finetuning: Any, capabilities: Capabilities) -> None:
    if not finetuning.pure_bf16 or not capabilities.of(Feature.DTYPE):
        return
    use = capabilities.settle(Feature.DTYPE, "bfloat16", asked_by="pure_bf16: true")
    if use != "bfloat16":
        finetuning.pure_bf16 = False
        precision.force(training, use)


def _triton_flags(model: Any, capabilities: Capabilities) -> None:
    """Off where Triton does not run; a package that is only missing is LLaMA-Factory's to name."""
    for flag, (package, why) in TRITON_FLAGS.items():
        if not getattr(model, flag, False):
            continue
        reason = refusal(capabilities, Feature.OP, "triton")
        if reason is None and not missing(package):
            reason = _unusable(package)
        if reason is not None:
            instead(
                capabilities, f"{flag}: true", use=f"{package} is off", reason=f"{why}; {reason}"
            )
            setattr(model, flag, False)


def _unusable(package: str) -> str | None:
    """Why an installed package cannot be imported; liger's first import looks for a driver."""
    if package != "liger_kernel":
        return None  # importing unsloth changes other libraries: that is for LLaMA-Factory to do
    import importlib

    try:
        importlib.import_module("liger_kernel.transformers")
    except Exception as error:  # noqa: BLE001 - what it raises is the answer
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _fp8(training: Any, capabilities: Capabilities) -> None:
    if not getattr(training, "fp8", False):
        return
    reason = refusal(capabilities, Feature.DTYPE, "float8_e4m3fn")
    package = FP8_PACKAGES.get(getattr(training, "fp8_backend", "auto"), "torchao")
    remedy = ""
    if reason is None and missing(package):
        reason, remedy = f"{package} is not installed", f"pip install {package}"
    if reason is not None:
        use = "bf16" if training.bf16 else "fp16" if training.fp16 else "float32"
        instead(
            capabilities,
            "fp8: true",
            use=f"fp8 is off, {use} is used",
            reason=reason,
            remedy=remedy,
        )
        training.fp8 = False
        training.fp8_enable_fsdp_float8_all_gather = False


def _without_scores(
    original: Callable[..., None], capabilities: Capabilities
) -> Callable[..., None]:
    @functools.wraps(original)
    def check(model_args: Any, finetuning_args: Any, training_args: Any = None) -> None:
        lacking = missing(*METRICS)
        if training_args is None or not training_args.predict_with_generate or not lacking:
            original(model_args, finetuning_args, training_args)
            return
        instead(
            capabilities,
            "predict_with_generate: true",
            use="predictions are written, without BLEU and ROUGE scores",
            reason=f"{', '.join(lacking)} not installed",
            remedy=f"pip install {' '.join(lacking)}",
        )
        training_args.predict_with_generate = False
        try:
            original(model_args, finetuning_args, training_args)
        finally:
            training_args.predict_with_generate = True

    return check


def _scored(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def score(self: Any, eval_preds: Any, compute_result: bool = True) -> Any:
        if missing(*METRICS):
            return {} if compute_result else None
        return original(self, eval_preds, compute_result)

    return score


def _quantised(original: Callable[..., None], capabilities: Capabilities) -> Callable[..., None]:
    @functools.wraps(original)
    def configure(config: Any, tokenizer: Any, model_args: Any, *args: Any, **kwargs: Any) -> None:
        stored = getattr(config, "quantization_config", None)
        exported = getattr(model_args, "export_quantization_bit", None)
        if model_args.quantization_bit is not None and not stored and exported is None:
            _settle_quantisation(model_args, capabilities)
        original(config, tokenizer, model_args, *args, **kwargs)

    return configure


def _settle_quantisation(model_args: Any, capabilities: Capabilities) -> None:
    """bitsandbytes or an error that says how to get it; in place of hqq where hqq cannot be."""
    bits, method = model_args.quantization_bit, model_args.quantization_method
    name = str(getattr(method, "value", method))
    if name == "hqq":
        reason = _hqq_problem()
        if reason is None:
            return
        by = f"quantization_method: hqq, quantization_bit: {bits}"
        if bits not in BITSANDBYTES_BITS or missing("bitsandbytes"):
            raise CapabilityUnavailable(
                f"{by} cannot be had on {capabilities.device.name}",
                found=reason,
                remedy="pip install bitsandbytes, with quantization_bit: 4 or 8 "
                "and quantization_method: bnb",
            )
        instead(capabilities, by, use=f"bitsandbytes in {bits} bits is used", reason=reason)
        name = "bnb"
        model_args.quantization_method = type(method)(name)
    if name == "bnb" and bits in BITSANDBYTES_BITS:
        _require_bitsandbytes(bits, capabilities)


def _require_bitsandbytes(bits: int, capabilities: Capabilities) -> None:
    name = f"bitsandbytes_{bits}bit"
    if missing("bitsandbytes"):
        raise CapabilityUnavailable(
            f"quantization_bit: {bits} cannot be had without bitsandbytes",
            found=f"no bitsandbytes in this environment; {capabilities.device.name}",
            remedy="pip install 'bitsandbytes>=0.49'",
        )
    if capabilities.find(Feature.QUANT, name) is not None:
        capabilities.require(Feature.QUANT, name)


def _hqq_problem() -> str | None:
    """Why transformers cannot quantise with hqq here; None where it can, or hqq is missing."""
    if missing("hqq"):
        return "hqq is not installed"
    from transformers.quantizers import base, quantizer_hqq

    # since transformers 5 a quantiser names its conversion, and the base class raises
    conversion = "get_quantize_ops"
    if hasattr(base.HfQuantizer, conversion) and not hasattr_own(
        quantizer_hqq.HqqHfQuantizer, base.HfQuantizer, conversion
    ):
        return "this transformers cannot convert a model to hqq yet"
    return None


def hasattr_own(kind: type, base: type, name: str) -> bool:
    """Whether `kind` has a `name` of its own, not the one of `base`."""
    return getattr(kind, name, None) is not getattr(base, name, None)
