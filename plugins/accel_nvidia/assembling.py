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

from accel.detecting import minor
from accel.errors import TargetMissing
from accel.machine import Machine
from accel.values import Device, Patch
from accel_nvidia.knowledge import ptxas_variable, traits_of

FOLDER = "backends/nvidia/bin"
OWN = {"TRITON_PTXAS_PATH": "ptxas", "TRITON_PTXAS_BLACKWELL_PATH": "ptxas-blackwell"}
"""What Triton takes from its own folder where the variable names nothing else."""
WHEEL = ("nvidia-cuda-nvcc", "nvidia/cu13/bin/ptxas")
INSTALLED = "/usr/local/cuda*/bin/ptxas"


def patches(device: Device, machine: Machine) -> Iterable[Patch]:
    """One, for an architecture that came to Triton's own ptxas late, beside an older Triton."""
    since = traits_of(device.arch).get("triton_ptxas_from")
    version = machine.version("triton")
    if since is None or version is None:
        return
    have, least = minor(version), minor(since)
    variable = ptxas_variable(version)
    if have is None or least is None or have >= least or machine.env(variable):
        return
    yield Patch(
        target="triton",
        reason=f"the ptxas that this Triton brings does not know {device.arch}: every kernel "
        "fails to compile",
        seam=lambda module: use_newer(device.arch, variable),
        guard=lambda module: not_needed(module, device.arch, variable),
        distribution="triton",
        versions=f"<{since}",
        upstream="https://github.com/triton-lang/triton/issues/8539",
        until=f"triton before {since} is no longer used",
        symptom="ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'",
    )


def not_needed(module: ModuleType, arch: str, variable: str) -> str | None:
    """Why Triton does without: the user has named a ptxas meanwhile, or its own knows `arch`."""
    if os.environ.get(variable):
        return f"{variable} is set"
    own = (str(Path(folder) / FOLDER / OWN[variable]) for folder in module.__path__)
    return f"this Triton's ptxas knows {arch}" if any(knows(path, arch) for path in own) else None


def use_newer(arch: str, variable: str) -> Callable[[], None]:
    """Name a ptxas that knows `arch` to Triton. Raises TargetMissing where there is none."""
    from accel.patching.variables import Variables

    found = newer(arch)
    if found is None:
        raise TargetMissing(
            f"there is no ptxas that knows {arch}",
            found=f"neither in {INSTALLED} nor in the wheel {WHEEL[0]}",
            remedy=f"pip install {WHEEL[0]}",
        )
    variables = Variables()
    variables.set(variable, found)
    return variables.take_back


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
