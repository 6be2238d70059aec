"""transformers: precision, attention and optional packages as they really are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from accel.hookspecs import hookimpl
from accel.values import Device, Feature, Patch
from accel_frameworks import arguments, attention, flash, old_transformers, rescue
from accel_frameworks.optional import Optional

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

IMPORT_UTILS = "transformers.utils.import_utils"
COMPANIONS = {
    "torchvision": "transformers takes it as absent, images and video are off",
    "torchaudio": "transformers takes it as absent, audio is off",
}


COMPANION_SYMPTOMS = {
    "torchvision": "ModuleNotFoundError: Could not import module 'PreTrainedModel'. Are this "
    "object's requirements defined correctly?; before it RuntimeError: operator torchvision::nms "
    "does not exist",
    "torchaudio": "OSError: libc10_cuda.so: cannot open shared object file, or OSError: Could not "
    "load this library, while a model is loaded",
}
NO_ATTENTION = (
    "ImportError: FlashAttention2 has been toggled on, but it cannot be used due to the following "
    "error"
)


@hookimpl
def accel_patches(device: Device, capabilities: Capabilities) -> Iterable[Patch]:
    """For every device: what differs is asked of `capabilities` when it is needed."""
    patches = [
        patch
        for name, without in COMPANIONS.items()
        for patch in _companion(Optional(name, capabilities, without=without))
    ]
    return [
        *patches,
        *_precision(capabilities),
        *_attention(capabilities),
        *flash.patches(capabilities),
        *old_transformers.patches(capabilities),
        *rescue.patches(capabilities),
    ]


def _companion(package: Optional) -> list[Patch]:
    """Both places that answer whether an optional package is there: the function, and the table."""
    name = f"is_{package.name}_available"
    reason = (
        f"a {package.name} built for another torch raises RuntimeError or OSError when it is "
        "imported; transformers only asks whether it is installed, and loading any model fails"
    )
    return [
        Patch(
            target=f"{IMPORT_UTILS}:{name}",
            reason=reason,
            replace=lambda original: _importable(original, package),
            distribution="transformers",
            versions=">=4.51",
            upstream="https://github.com/huggingface/diffusers/issues/9109",
            until="transformers takes an optional package that cannot be imported as absent",
            symptom=COMPANION_SYMPTOMS[package.name],
        ),
        Patch(
            target=IMPORT_UTILS,
            reason=f"the table of backends keeps its own reference to {name}",
            seam=lambda module: _in_backends(module, package.name, name),
            distribution="transformers",
            versions=">=4.51",
            upstream="https://github.com/huggingface/diffusers/issues/9109",
            until=f"{name} is repaired upstream",
            symptom=COMPANION_SYMPTOMS[package.name],
        ),
    ]


def _importable(original: Callable[..., Any], package: Optional) -> Callable[..., bool]:
    @functools.wraps(original)
    def answer(*args: Any, **kwargs: Any) -> bool:
        return bool(original(*args, **kwargs)) and package.problem() is None

    for name in ("cache_clear", "cache_info"):
        if hasattr(original, name):
            setattr(answer, name, getattr(original, name))
    return answer


def _in_backends(module: Any, backend: str, name: str) -> Callable[[], None]:
    """Let the table ask the module's present function, and drop what was cached before."""
    table = module.BACKENDS_MAPPING
    before = table[backend]
    table[backend] = (lambda: getattr(module, name)(), *before[1:])
    dependents = [
        answer
        for key, answer in vars(module).items()
        if key.startswith(("is_torchvision", "is_torchaudio", "is_timm", "is_speech"))
        and hasattr(answer, "cache_clear")
    ]

    def forget() -> None:
        for answer in dependents:
            answer.cache_clear()

    def undo() -> None:
        table[backend] = before
        forget()

    forget()
    return undo


def _precision(capabilities: Capabilities) -> list[Patch]:
    if not capabilities.of(Feature.DTYPE):
        return []
    return [
        Patch(
            target=f"{IMPORT_UTILS}:is_torch_bf16_gpu_available",
            reason="False on every CPU, and True on devices that only emulate bfloat16",
            replace=lambda original: _has_bfloat16(original, capabilities),
            distribution="transformers",
            versions=">=4.51",
            upstream="https://github.com/hiyouga/LLaMA-Factory/issues/8982",
            until="transformers asks the device",
            symptom="ValueError: This device does not support `pure_bf16`.",
        ),
        Patch(
            target="transformers.training_args:TrainingArguments.__post_init__",
            reason="bf16 is refused on a CPU that has it unless use_cpu is set, fp16 on a CPU is "
            "silently without mixed precision, and neither is checked on every other device",
            replace=lambda original: _settled_arguments(original, capabilities),
            distribution="transformers",
            versions=">=4.51",
            parameters=("self",),
            upstream="https://github.com/hiyouga/LLaMA-Factory/issues/9025",
            until="TrainingArguments takes the precision that the device has",
            symptom="ValueError: Your setup doesn't support bf16/gpu. You need to assign use_cpu; "
            "ValueError: --tf32 requires Ampere or a newer GPU arch; ValueError: Default process "
            "group has not been initialized, with ddp_backend; ValueError: Trainer tried to "
            "instantiate apex FusedAdam but apex is not installed!",
        ),
        *_loading(capabilities),
    ]


def _loading(capabilities: Capabilities) -> list[Patch]:
    """On a CPU every dtype computes, if slowly: there a model is loaded as it always was."""
    if capabilities.device.kind == "cpu":
        return []

    def replace(original: Callable[..., Any]) -> Callable[..., Any]:
        from accel_frameworks import precision

        return precision.loads_in(original, capabilities)  # type: ignore[no-any-return]

    return [
        Patch(
            target=f"transformers.modeling_utils:{name}",
            reason="a checkpoint in a dtype that the device lacks is loaded in it, whatever "
            "precision the training asks for",
            replace=replace,
            distribution="transformers",
            versions=">=4.51",
            upstream="https://github.com/hiyouga/LLaMA-Factory/issues/4165",
            until="transformers asks the device which dtypes it has",
            optional=True,
            symptom="RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED; DT_BFLOAT16 is not "
            "supported",
        )
        for name in ("_get_dtype", "_get_torch_dtype")
    ]


def _has_bfloat16(original: Callable[..., Any], capabilities: Capabilities) -> Callable[..., bool]:
    @functools.wraps(original)
    def is_torch_bf16_gpu_available() -> bool:
        return capabilities.supports(Feature.DTYPE, "bfloat16")

    return is_torch_bf16_gpu_available


def _settled_arguments(
    original: Callable[..., None], capabilities: Capabilities
) -> Callable[..., None]:
    @functools.wraps(original)
    def post_init(self: Any) -> None:
        arguments.settle(self, capabilities)
        original(self)

    return post_init


def _attention(capabilities: Capabilities) -> list[Patch]:
    decisions = capabilities.of(Feature.ATTENTION)
    if not decisions:
        return []
    reason = "an attention that the device lacks ends in ImportError or ValueError"
    return [
        Patch(
            target="transformers.modeling_utils:PreTrainedModel"
            "._check_and_adjust_attn_implementation",
            reason=reason,
            replace=lambda original: _checked(original, capabilities),
            distribution="transformers",
            versions=">=4.53",
            parameters=("attn_implementation",),
            upstream="https://github.com/huggingface/transformers/issues/31877",
            until="transformers falls back by itself, and says so",
            symptom=NO_ATTENTION,
        ),
        Patch(
            target="transformers.modeling_utils:PreTrainedModel._autoset_attn_implementation",
            reason=reason,
            replace=lambda original: _autoset(original, capabilities),
            distribution="transformers",
            versions="<4.53",
            parameters=("config",),
            upstream="https://github.com/huggingface/transformers/issues/31877",
            until="transformers before 4.53 is no longer used",
            symptom=NO_ATTENTION,
        ),
    ]


def _checked(original: Callable[..., str], capabilities: Capabilities) -> Callable[..., str]:
    @functools.wraps(original)
    def check(self: Any, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        use = attention.settle(self, attn_implementation, capabilities)
        return original(self, use, *args, **kwargs)

    return check


def _autoset(original: Any, capabilities: Capabilities) -> Any:
    """For transformers before 4.53, where a class method writes the choice into the config."""
    function: Callable[..., Any] = getattr(original, "__func__", original)

    def autoset(
        cls: Any, /, config: Any, use_flash_attention_2: bool = False, **kwargs: Any
    ) -> Any:
        asked = getattr(config, "_attn_implementation_internal", None)
        if use_flash_attention_2 and asked is None:
            asked = "flash_attention_2"
        use: Any
        if isinstance(asked, dict):
            use = {part: attention.settle(cls, name, capabilities) for part, name in asked.items()}
        else:
            use = attention.settle(cls, asked, capabilities)
        if use != asked or use_flash_attention_2:
            config._attn_implementation_internal = use
        return function(cls, config, **kwargs)

    functools.update_wrapper(autoset, function)
    return classmethod(autoset)
