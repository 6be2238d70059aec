"""trl: weights sent to `cuda` by name on their way to vLLM; packages that only seem to be there."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable

from accel.hookspecs import hookimpl
from accel.values import Device, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

TRAINERS = {
    "grpo_trainer": "GRPOTrainer",
    "online_dpo_trainer": "OnlineDPOTrainer",
    "rloo_trainer": "RLOOTrainer",
}
METHOD = "_sync_fsdp2_params_to_vllm"


@hookimpl
def accel_patches(device: Device) -> Iterable[Patch]:
    """What is optional, for every device; what names one, for every other."""
    if device.kind == "cuda":
        return [_availability()]
    return [
        _availability(),
        *(
            Patch(
                target=f"trl.trainer.{module}:{trainer}.{METHOD}",
                reason="parameters that FSDP 2 keeps on the host are sent to `cuda` by name",
                replace=lambda original: _synced(original, device),
                guard=_not_needed,
                distribution="trl",
                versions=">=0.18,<1",
                upstream="https://github.com/huggingface/trl/blob/v0.24.0/trl/trainer/"
                "grpo_trainer.py#L897",
                until="trl before 0.25 is no longer used",
                symptom="AssertionError: Torch not compiled with CUDA enabled, from "
                "_sync_fsdp2_params_to_vllm",
                optional=True,
            )
            for module, trainer in TRAINERS.items()
        ),
    ]


def _availability() -> Patch:
    return Patch(
        target="trl.import_utils",
        reason="transformers 5 answers whether a package is there with two values, and trl takes "
        "the pair for a yes: every optional package seems installed",
        seam=_answered,
        guard=_answers_plainly,
        distribution="trl",
        versions="<0.29",
        upstream="https://github.com/huggingface/trl/blob/v0.24.0/trl/import_utils.py#L35",
        until="trl before 0.29 is no longer used",
        symptom="RuntimeError: Failed to import trl.trainer.dpo_trainer because of the following "
        "error (look up to see its traceback): No module named 'mergekit'",
    )


def _answers_plainly(module: Any) -> str | None:
    ask = getattr(module, "_is_package_available", None)
    answer = ask("accel_asks_for_no_such_package") if ask is not None else False
    return None if isinstance(answer, tuple) else "this transformers answers with one value"


def _answered(module: Any) -> Callable[[], None]:
    """One value for one question, for those asked while trl was imported and those to come."""
    ask = module._is_package_available
    pairs = {
        name: value
        for name, value in vars(module).items()
        if name.endswith("_available") and isinstance(value, tuple)
    }

    @functools.wraps(ask)
    def available(name: str, return_version: bool = False) -> Any:
        answer = ask(name, return_version)
        return answer if return_version else answer[0]

    module._is_package_available = available
    for name, (found, *_version) in pairs.items():
        setattr(module, name, found)

    def undo() -> None:
        module._is_package_available = ask
        for name, pair in pairs.items():
            setattr(module, name, pair)

    return undo


def _not_needed(original: Callable[..., Any]) -> str | None:
    import inspect

    try:
        named = 'torch.device("cuda")' in inspect.getsource(original)
    except OSError:
        named = True
    return None if named else "this trl does not name a device"


class _There:
    """A parameter that is already where it has to be, whatever the caller would do about it."""

    is_cpu = False

    def __init__(self, parameter: Any) -> None:
        self._parameter = parameter

    def full_tensor(self) -> Any:
        return self._parameter.full_tensor()


def _synced(original: Callable[..., None], device: Device) -> Callable[..., None]:
    @functools.wraps(original)
    def sync(self: Any, module: Any) -> None:
        import torch

        target = torch.device(device.torch_name)
        there = {name: _There(value.to(target)) for name, value in module.state_dict().items()}
        original(self, types.SimpleNamespace(state_dict=lambda: there))

    return sync
