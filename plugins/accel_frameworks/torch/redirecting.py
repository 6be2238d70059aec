"""One repair for the report, many small patches underneath: all of them, or none.

The patches are a journal's, so that copies of a name follow, other people's patches can lie over
them, and everything is given back by identity. What a library does not have in this version is
left out; anything else that goes wrong takes all of it back.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable

from accel.errors import PatchError
from accel.patching import Journal
from accel.resolving import Capabilities
from accel.values import Level, Note, Patch
from accel_frameworks.torch import (
    amp,
    attention,
    comm,
    compiling,
    cuda_module,
    dispatching,
    distributed,
    generators,
    loading,
    norms,
    refusing,
    runtime,
    tensors,
)
from accel_frameworks.torch.target import Target

PARTS = (
    tensors,
    cuda_module,
    amp,
    attention,
    generators,
    loading,
    distributed,
    comm,
    norms,
    compiling,
    runtime,
    refusing,
)
"""In the order in which they are laid; each has `patches(target, capabilities)`."""


def patches_for(target: Target, capabilities: Capabilities) -> list[Patch]:
    """Every single patch that makes CUDA's names mean `target`."""
    return [patch for part in PARTS for patch in part.patches(target, capabilities)]


def redirect(capabilities: Capabilities) -> Callable[[], None]:
    """Make CUDA's names mean the device of `capabilities`; returns the way back.

    Raises PatchError, with nothing changed, if any of it cannot be done.
    """
    from torch.jit._builtins import _get_builtin_table
    from torch.utils._device import _device_constructors

    device = capabilities.device
    target = Target(device.kind, device.name, 0 if _in_rank() else device.index)
    for kept_once_asked in (_device_constructors, _get_builtin_table):
        kept_once_asked()  # of the originals, then
    journal = Journal()
    kernels = dispatching.Kernels(target)
    try:
        with warnings.catch_warnings():
            # torch says of some names that they are deprecated when they are merely looked at
            warnings.simplefilter("ignore")
            journal.apply(patches_for(target, capabilities), version=_version)
        failed = [entry for entry in journal.entries if entry.state == "failed"]
        if failed:
            raise PatchError(
                "CUDA's names cannot be redirected in this torch",
                found="; ".join(f"{entry.patch.target}: {entry.detail}" for entry in failed),
                remedy="ACCEL_CUDA_NAMES=off",
            )
        kernels.register()
    except BaseException:
        kernels.remove()
        journal.revert()
        raise
    _say(capabilities, target)

    def undo() -> None:
        kernels.remove()
        journal.revert()
        target.variables.take_back()
        _start_cuda(target)

    return undo


def _start_cuda(target: Target) -> None:
    """torch's C++ asks Python once to start CUDA: that is made good where there is CUDA."""
    import torch

    if target.cuda_was_started and torch.backends.cuda.is_built() and torch.cuda.device_count():
        torch.cuda._lazy_init()


def _in_rank() -> bool:
    import os

    return "LOCAL_RANK" in os.environ


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _say(capabilities: Capabilities, target: Target) -> None:
    capabilities.note(
        Note(
            level=Level.INFO,
            subject="CUDA names",
            message=f"cuda, .cuda(), torch.cuda and nccl mean {target.kind} ({target.name}) and "
            f"{distributed.backend_for(capabilities)} here",
            remedy="ACCEL_CUDA_NAMES=off leaves them alone",
            origin="accel_frameworks",
        )
    )
