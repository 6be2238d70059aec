"""The ptxas that Triton assembles with: its own may be older than the card."""

from __future__ import annotations

import contextlib
import glob
import importlib.metadata
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

from packaging.version import Version

from accel.detecting import parse_version
from accel.machine import Machine
from accel.values import Device, Patch
from accel_nvidia.knowledge import traits_of

VARIABLE = "TRITON_PTXAS_PATH"
OWN = "backends/nvidia/bin/ptxas"
WHEEL = ("nvidia-cuda-nvcc", "nvidia/cu13/bin/ptxas")
INSTALLED = "/usr/local/cuda*/bin/ptxas"


def patches(device: Device, machine: Machine) -> Iterable[Patch]:
    """One, for an architecture that came to Triton's own ptxas late, beside an older Triton."""
    since = traits_of(device.arch).get("triton_ptxas_from")
    triton = parse_version(machine.version("triton") or "")
    if since is None or triton is None or triton >= Version(since) or machine.env(VARIABLE):
        return
    yield Patch(
        target="triton",
        reason=f"the ptxas that this Triton brings does not know {device.arch}: every kernel "
        "fails to compile",
        seam=lambda module: use_newer(module, device.arch),
        distribution="triton",
        versions=f"<{since}",
        upstream="https://github.com/triton-lang/triton/issues/8539",
        until=f"triton before {since} is no longer used",
        symptom="ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'",
    )


def use_newer(module: ModuleType, arch: str) -> Callable[[], None]:
    """Name a ptxas that knows `arch` to Triton, if its own does not and one is to be found."""
    before = os.environ.get(VARIABLE)
    own = [str(Path(folder) / OWN) for folder in module.__path__]
    found = None if any(knows(path, arch) for path in own) else newer(arch)
    if found is not None:
        os.environ[VARIABLE] = found

    def undo() -> None:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before

    return undo


def newer(arch: str) -> str | None:
    """The first ptxas of a toolkit or a wheel that knows `arch`."""
    return next((path for path in _candidates() if knows(path, arch)), None)


def _candidates() -> Iterator[str]:
    name, path = WHEEL
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        yield str(importlib.metadata.distribution(name).locate_file(path))
    yield from sorted(glob.glob(INSTALLED), reverse=True)


def knows(ptxas: str, arch: str) -> bool:
    """Whether that ptxas lists `arch` among the cards it makes code for."""
    try:
        done = subprocess.run(
            [ptxas, "--help"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return f"'{arch}'" in done.stdout
