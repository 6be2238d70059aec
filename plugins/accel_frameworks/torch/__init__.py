"""torch: `is_bf16_supported()` tells the truth, and scripts that say `cuda` mean what is there."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable

from accel.hookspecs import hookimpl
from accel.values import Device, Feature, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

SWITCH = "ACCEL_CUDA_NAMES"
SYMPTOM = "; ".join(
    (
        "AssertionError: Torch not compiled with CUDA enabled",
        "RuntimeError: Attempting to deserialize object on a CUDA device but "
        "torch.cuda.is_available() is False.",
        "RuntimeError: Distributed package doesn't have NCCL built in",
        "RuntimeError: torch.cuda.Stream requires CUDA support",
        "RuntimeError: Tried to instantiate dummy base class Event",
        "UserWarning: CUDA is not available or torch_xla is imported. Disabling autocast.",
    )
)


@hookimpl
def accel_patches(device: Device, capabilities: Capabilities) -> Iterable[Patch]:
    """On CUDA one repair of what CUDA answers; elsewhere CUDA's names are redirected."""
    if device.kind == "cuda":
        return _on_cuda(capabilities)
    return [
        Patch(
            target="torch",
            reason="training code names CUDA outright: .cuda(), device='cuda', torch.cuda, "
            "autocast, GradScaler, map_location, nccl",
            seam=lambda module: _redirected(capabilities),
            guard=lambda module: _left_alone(module, capabilities),
            distribution="torch",
            versions=">=2.5",
            upstream="https://docs.pytorch.org/docs/stable/accelerator.html",
            until=f"scripts use torch.accelerator; {SWITCH}=off leaves them alone",
            symptom=SYMPTOM,
        )
    ]


@hookimpl
def accel_commands(app: Any) -> None:
    """Add `accel lint`."""
    from accel_frameworks.lint import command

    command.add_to(app)


def _redirected(capabilities: Capabilities) -> Callable[[], None]:
    from accel_frameworks.torch.redirecting import redirect

    return redirect(capabilities)


def _left_alone(torch: Any, capabilities: Capabilities) -> str | None:
    """A reason to leave CUDA's names alone: the user's, or CUDA is there and no other was named."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no", "false"):
        return f"{SWITCH} is off"
    if capabilities.chosen_by_name or not torch.backends.cuda.is_built():
        return None
    if torch.cuda.device_count() == 0:  # asks the driver's library; makes no context
        return None
    return "CUDA is here too, so its names mean CUDA; name a device in auto() to redirect them"


def _on_cuda(capabilities: Capabilities) -> list[Patch]:
    """Only where torch's device type is the one that the question is about."""
    if not capabilities.of(Feature.DTYPE):
        return []
    return [
        Patch(
            target="torch.cuda:is_bf16_supported",
            reason="True on cards that only emulate bfloat16 (compute capability below 8.0), "
            "and always True on ROCm",
            replace=lambda original: _for_device(original, capabilities),
            distribution="torch",
            versions=">=2.5",
            upstream="https://github.com/pytorch/pytorch/pull/148322",
            until="torch's default answer leaves emulation out",
            symptom="bf16: true on a V100, T4 or P100 trains without a word, and several times "
            "slower than fp16",
        )
    ]


def _for_device(original: Callable[..., bool], capabilities: Capabilities) -> Callable[..., bool]:
    @functools.wraps(original)
    def is_bf16_supported(*args: Any, **kwargs: Any) -> bool:
        return capabilities.supports(Feature.DTYPE, "bfloat16")

    return is_bf16_supported
