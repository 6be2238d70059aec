"""Compiled packages against the torch that is here: by what their versions and metadata say, and
by importing those that people fall over, in a child process."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from accel.detecting import minor, named_in_local, torch_build
from accel.doctor import has_module, import_error
from accel.machine import Machine
from accel.troubles import Finding
from accel.values import Device
from accel.versions import within
from accel_frameworks.doctoring.surroundings import trouble

COMPANIONS = ("torchvision", "torchaudio")
IMPORTED: Mapping[str, str] = {
    "flash-attn": "flash_attn",
    "bitsandbytes": "bitsandbytes",
    "xformers": "xformers",
    "deepspeed": "deepspeed",
}
"""Distributions whose import is tried, and their modules. torch's own companions are tried by
accel's rule `companions`."""
BARE: Mapping[str, str] = {"flash-attn": "flash_attn", "apex": "apex"}
"""Distributions that are known to be met as bare folders."""


def another_torch(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """Packages whose version or requirements name the torch that they were built for."""
    torch = machine.version("torch")
    if torch is None:
        return
    for name, version in sorted(machine.distributions().items()):
        meant = named_in_local(version) or (
            _required(machine, name, version, "torch") if name in COMPANIONS else None
        )
        if meant is None or minor(meant) is None or minor(meant) == minor(torch):
            continue
        yield trouble("built-for-another-torch").found(
            f"{name} {version}",
            f"was built for torch {meant}; torch {torch} is installed",
            f"pip uninstall -y {name}",
        )


def another_toolkit(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """torchvision and torchaudio whose local version, or its absence, tells another build."""
    build = torch_build(machine)
    if "cuda" not in build or machine.platform().system != "Linux":
        return
    named = {"cuda": "cuda", "hip": "rocm", "xpu": "xpu"}
    ours = next((kind for key, kind in named.items() if build.get(key)), "cpu")
    for name in COMPANIONS:
        version = machine.version(name)
        theirs = None if version is None else toolkit_of(version, machine)
        if theirs is None or theirs == ours:
            continue
        yield trouble("built-for-another-toolkit").found(
            f"{name} {version}",
            f"was built for {theirs}; torch {build['version']} for {ours}",
            f"uv pip install --reinstall {name} --torch-backend=cpu"
            if ours == "cpu"
            else f"pip uninstall -y {name}",
        )


def toolkit_of(version: str, machine: Machine) -> str | None:
    """`cpu`, `cuda`, `rocm` or `xpu`, by a version's local part; None where it does not tell.

    Without one it is PyPI's: built with CUDA for x86_64, and for aarch64 not always.
    """
    _, plus, local = version.partition("+")
    if not plus:
        return "cuda" if machine.platform().arch in ("x86_64", "AMD64") else None
    kinds = {"cpu": "cpu", "cu": "cuda", "rocm": "rocm", "xpu": "xpu"}
    found = re.fullmatch(r"(cpu|cu|rocm|xpu)[\d.]*", local)
    return kinds[found[1]] if found else None


def triton(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """The triton that torch's own metadata pins against the one that is here."""
    torch, have = machine.version("torch"), machine.version("triton")
    if torch is None or have is None or "+" in have:  # a vendor's own is pinned by nobody
        return
    pinned = _required(machine, "torch", torch, "triton")
    if pinned is None or within(have, f"=={pinned}"):
        return
    yield trouble("triton-of-another-torch").found(
        f"triton {have}", f"torch {torch} asks for {pinned}", f"pip install triton=={pinned}"
    )


def _required(machine: Machine, name: str, version: str, wanted: str) -> str | None:
    """The one version of `wanted` that a distribution's metadata asks for."""
    folder = f"{name.replace('-', '_')}-{version}.dist-info"
    text = machine.distribution_file(name, f"{folder}/METADATA") or ""
    found = re.search(
        rf"^Requires-Dist:\s*{wanted}\s*\(?==\s*([\w.+]+)\)?", text, re.MULTILINE | re.IGNORECASE
    )
    return found[1] if found else None


def imports(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """Optional packages that libraries use as soon as they are installed."""
    if machine.version("torch") is None or import_error(machine, "torch") is not None:
        return  # everything that imports torch would be blamed for it
    for name, module in IMPORTED.items():
        version = machine.version(name)
        error = None if version is None else import_error(machine, module)
        if error is not None:
            yield trouble("import-fails").found(
                f"{name} {version}", f"`import {module}` fails: {error}", f"pip uninstall -y {name}"
            )


def bare(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """Modules that can be imported and that pip knows nothing of."""
    for name, module in BARE.items():
        if machine.version(name) is None and has_module(machine, module):
            yield trouble("module-without-metadata").found(
                module,
                f"can be imported, and no distribution {name} is installed",
                f'python -c "import {module}; print({module}.__path__)"',
            )


def apex(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """PyPI's apex, all of whose releases are 0.9.x; NVIDIA's own says 0.1."""
    version = machine.version("apex")
    if version is not None and version.startswith("0.9."):
        yield trouble("apex-of-pypi").found(
            f"apex {version}", "is PyPI's web framework, not NVIDIA's", "pip uninstall -y apex"
        )


RULES = (another_torch, another_toolkit, triton, imports, bare, apex)
