"""transformers before 5, beside packages that have stopped to follow it."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

from accel.values import Level, Note, Patch
from accel_frameworks.optional import reason_of

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

FORBIDDEN = ("cpu", "disk")


def patches(capabilities: Capabilities) -> list[Patch]:
    """Each for the versions that have the failure, and for no other."""
    return [
        Patch(
            target="transformers.activations",
            reason="autoawq, which is no longer maintained, imports a name that these versions "
            "do not have: everything that imports awq fails",
            seam=_alias,
            guard=lambda module: (
                "the name is there" if hasattr(module, "PytorchGELUTanh") else None
            ),
            distribution="transformers",
            versions=">=4.57,<5",
            upstream="https://github.com/hiyouga/LLaMA-Factory/issues/9247",
            until="transformers 4.57 is no longer used",
            symptom="ImportError: cannot import name 'PytorchGELUTanh' from "
            "'transformers.activations'",
        ),
        Patch(
            target="transformers.quantizers.quantizer_awq:AwqQuantizer.validate_environment",
            reason="an AWQ model whose device_map has the CPU or the disk in it is refused, "
            "although everything below can load it",
            replace=lambda original: _validated(original, capabilities),
            distribution="transformers",
            versions=">=4.51,<5",
            parameters=("device_map",),
            upstream="https://github.com/casper-hansen/AutoAWQ/issues/526",
            until="transformers before 5 is no longer used",
            symptom="ValueError: You are attempting to load an AWQ model with a device_map that "
            "contains a CPU or disk device. This is not supported.",
            optional=True,
        ),
        Patch(
            target="transformers.utils.import_utils:is_apex_available",
            reason="the package that pip installs as apex is not NVIDIA's: Trainer imports amp "
            "from it, and fails",
            replace=lambda original: _has_amp(original, capabilities),
            distribution="transformers",
            versions=">=4.51,<4.55",
            upstream="https://github.com/huggingface/transformers/issues/38095",
            until="transformers before 4.55 is no longer used",
            symptom="ModuleNotFoundError: No module named 'pyramid_mailer', or ImportError: cannot "
            "import name 'amp' from 'apex'",
        ),
    ]


def _alias(module: Any) -> Callable[[], None]:
    module.PytorchGELUTanh = module.GELUTanh

    def undo() -> None:
        del module.PytorchGELUTanh

    return undo


def _validated(original: Callable[..., None], capabilities: Capabilities) -> Callable[..., None]:
    @functools.wraps(original)
    def validate_environment(self: Any, device_map: Any = None, **kwargs: Any) -> None:
        allowed = device_map
        if isinstance(device_map, dict):
            allowed = {k: v for k, v in device_map.items() if str(v) not in FORBIDDEN} or None
        if allowed != device_map:
            capabilities.note(
                Note(
                    level=Level.INFO,
                    subject="AwqQuantizer",
                    message="its device_map has the CPU or the disk in it, which this "
                    "transformers would refuse",
                    origin="accel_frameworks",
                )
            )
        original(self, device_map=allowed, **kwargs)

    return validate_environment


def _has_amp(original: Callable[..., bool], capabilities: Capabilities) -> Callable[..., bool]:
    @functools.wraps(original)
    def is_apex_available() -> bool:
        if not original():
            return False
        try:
            importlib.import_module("apex.amp")
        except Exception as error:  # noqa: BLE001 - what it raises is the answer
            capabilities.note(
                Note(
                    level=Level.WARNING,
                    subject="apex",
                    message=f"is installed but is not the one that trains ({reason_of(error)}); "
                    "transformers takes it as absent",
                    remedy="pip uninstall -y apex",
                    origin="accel_frameworks",
                )
            )
            return False
        return True

    return is_apex_available
