"""LLaMA-Factory's web page: what it starts goes through accel, and it shows the device that is."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

from accel.values import Feature, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    import subprocess
    from typing import Any

    from accel.resolving import Capabilities

DISTRIBUTION = "llamafactory"
VERSIONS = ">=0.9.4,<0.10"
SOURCE = "https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/webui"
COMMAND = ("llamafactory-cli", "lmf")
COMPUTE_TYPE_OF = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def patches(capabilities: Capabilities) -> list[Patch]:
    """For every device."""
    return [
        Patch(
            target="llamafactory.webui.runner",
            reason="a training started from the page is a command line of its own, which accel "
            "may not reach, and which is started by a bare name that may not be on the path",
            seam=_through_accel,
            distribution=DISTRIBUTION,
            versions=VERSIONS,
            upstream=f"{SOURCE}/runner.py#L378",
            until="the page starts its trainings through something that can be told",
            symptom="FileNotFoundError: [Errno 2] No such file or directory: 'llamafactory-cli'",
        ),
        Patch(
            target="llamafactory.webui.components.train:create_train_tab",
            reason="the page offers bf16 on every device, and counts devices without naming them",
            replace=lambda original: _shown(original, capabilities),
            distribution=DISTRIBUTION,
            versions=VERSIONS,
            parameters=("engine",),
            upstream=f"{SOURCE}/components/train.py#L56",
            until="the page asks the device",
            symptom="ValueError: Your setup doesn't support bf16/gpu, from the page's own defaults",
        ),
    ]


def _through_accel(module: Any) -> Callable[[], None]:
    # A seam, because the same class is in every module that starts processes.
    before = module.Popen

    @functools.wraps(before, updated=())
    def popen(command: Sequence[str], *args: Any, **kwargs: Any) -> subprocess.Popen[Any]:
        return before(served(command), *args, **kwargs)  # type: ignore[no-any-return]

    module.Popen = popen

    def undo() -> None:
        module.Popen = before

    return undo


def served(command: Sequence[str]) -> list[str]:
    """LLaMA-Factory's command line as accel's, by this very Python; any other as it is."""
    name, *rest = command
    if name not in COMMAND:
        return list(command)
    return [sys.executable, "-m", "accel", "llamafactory", *rest]


def _shown(original: Callable[..., Any], capabilities: Capabilities) -> Callable[..., Any]:
    @functools.wraps(original)
    def create_train_tab(engine: Any) -> Any:
        elements = original(engine)
        device = capabilities.device
        count = elements.get("device_count")
        if count is not None:
            count.value = f"{count.value}: {device.name} ({device.torch_name})"
        kind = elements.get("compute_type")
        if kind is not None:
            kind.value = compute_type(kind.value, capabilities)
        return elements

    return create_train_tab


def compute_type(offered: str, capabilities: Capabilities) -> str:
    """What the page offers, if the device has it and nobody asked for another; else the best."""
    if not capabilities.of(Feature.DTYPE):
        return offered
    best = capabilities.best(Feature.DTYPE)
    dtype = {kind: name for name, kind in COMPUTE_TYPE_OF.items()}.get(offered, "")
    asked = capabilities.wanted.get(Feature.DTYPE)
    if asked in (None, dtype) and capabilities.supports(Feature.DTYPE, dtype):
        return offered
    return COMPUTE_TYPE_OF.get(best.name, offered) if best is not None else offered
