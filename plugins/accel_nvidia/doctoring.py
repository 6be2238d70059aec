"""What can be wrong around an NVIDIA GPU that torch could use: the rules behind doctor.toml."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from accel.doctor import asked_of_python
from accel.machine import Machine
from accel.troubles import Finding, Trouble, load_troubles
from accel.values import Device, Feature
from accel.versions import release
from accel_nvidia.knowledge import PACKAGE, impls_of, ptxas_variable, traits_of

_IN_CONTAINER = ("/.dockerenv", "/run/.containerenv", "/.singularity.d")
_ARCH_FLAGS = "import json, torch; print(json.dumps(torch._C._cuda_getArchFlags() or ''))"
_FREE_ENOUGH = 16 * 2**30
"""Bytes. Below this a model of some size does not load, whatever could be freed."""


def examine(machine: Machine, devices: Sequence[Device]) -> Iterator[Finding]:
    """Findings about these GPUs, one for each architecture of them, and about the machine."""
    for arch in dict.fromkeys(device.arch for device in devices):
        first = next(device for device in devices if device.arch == arch)
        for rule in (_ptxas, _wheel, _flash_attention):
            yield from rule(machine, first)
    for rule in (_unified, _container, _bitsandbytes):
        yield from rule(machine, devices[0])
    yield from _untold(devices)


def _trouble(name: str) -> Trouble:
    return load_troubles(PACKAGE)[f"nvidia-{name}"]


def _untold(devices: Sequence[Device]) -> Iterable[Finding]:
    """GPUs of which NVML failed to say something that they can be used without."""
    for device in devices:
        untold = device.attributes.get("untold")
        if untold and device.usable:
            number = device.attributes["physical_index"]
            yield _trouble("nvml-in-part").found(
                f"GPU {number}, {device.name}",
                f"NVML failed to tell of it: {'; '.join(untold)}",
                f"nvidia-smi -q -i {number}",
            )


def _ptxas(machine: Machine, device: Device) -> Iterable[Finding]:
    """Triton's own assembler against the architecture, unless the user has named another."""
    needed = traits_of(device.arch).get("triton_ptxas_from")
    version = machine.version("triton")
    if not needed or version is None:
        return
    variable = ptxas_variable(version)
    if machine.env(variable):
        return
    have, least = release(version), release(needed)
    if have is None or least is None or have >= least:
        return
    toolkit = traits_of(device.arch).get("toolkit_min", "13.0")
    found = [
        path
        for path in machine.glob("/usr/local/cuda-*/bin/ptxas")
        if (number := release(path.split("/")[3].removeprefix("cuda-"))) is not None
        and number >= (release(toolkit) or ())
    ]
    yield _trouble("ptxas-too-old").found(
        f"triton {version}",
        f"its ptxas does not know {device.arch}, Triton's does from {needed}"
        + (f"; {found[-1]} does" if found else ""),
        f"export {variable}={found[-1]}" if found else f'pip install "triton=={needed}.*"',
    )


def _wheel(machine: Machine, device: Device) -> Iterable[Finding]:
    """The machine code that torch really has, where it can be asked, against the card."""
    if not device.usable or machine.version("torch") is None:
        return
    flags = asked_of_python(machine, "torch arch flags", _ARCH_FLAGS)
    if not isinstance(flags, str) or not flags.split() or runs_on(device.arch, flags.split()):
        return
    yield _trouble("wheel-without-arch").found(
        f"torch {machine.version('torch')}",
        f"has code for {', '.join(flags.split())}, none of which runs on {device.arch}",
        "pip install --force-reinstall torch",
    )


def runs_on(arch: str, flags: Iterable[str]) -> bool:
    """Whether any of the architectures a library was compiled for runs on a card.

    `sm_86` runs on 8.6 and later minor versions of 8; `compute_90` is PTX, for 9.0 and all that
    came later; `sm_90a` runs on 9.0 alone, `sm_120f` on its own family (CUDA Programming Guide,
    binary and PTX compatibility). A card whose name is no number is given the benefit of doubt.
    """
    card = _numbers(arch)
    if card is None:
        return True
    for flag in flags:
        code = _numbers(flag)
        if code is None:
            continue
        if flag.startswith("compute_"):
            if not flag.endswith("a") and code <= card:
                return True
        elif code == card or (code[0] == card[0] and code <= card and not flag.endswith("a")):
            return True
    return False


def _numbers(arch: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"(?:sm|compute)_(\d{1,3})(\d)[af]?", arch)
    return (int(found[1]), int(found[2])) if found else None


def _flash_attention(machine: Machine, device: Device) -> Iterable[Finding]:
    version = machine.version("flash-attn")
    if version is None:
        return
    for impl in impls_of(device.arch):
        if impl.feature is Feature.ATTENTION and impl.name == "flash_attention_2":
            if impl.unavailable is not None:
                yield _trouble("flash-attn-other-card").found(
                    f"flash-attn {version}",
                    f"{device.name} ({device.arch}): {impl.unavailable}",
                    "pip uninstall -y flash-attn",
                )
            return


def _unified(machine: Machine, device: Device) -> Iterable[Finding]:
    """Memory that GPU and host share: what files have taken of it, and swap."""
    if device.memory_model != "unified":
        return
    sizes = _meminfo(machine)
    free, available, swap = (sizes.get(n) for n in ("MemFree", "MemAvailable", "SwapTotal"))
    if free is not None and available is not None and available - free > free + _FREE_ENOUGH:
        yield _trouble("unified-page-cache").found(
            device.name,
            f"{free / 2**30:.0f} GiB are free to CUDA, {available / 2**30:.0f} GiB would be "
            "without the page cache",
            "sudo sh -c 'sync; echo 3 > /proc/sys/vm/drop_caches'",
        )
    if swap:
        yield _trouble("unified-swap").found(
            device.name, f"{swap / 2**30:.0f} GiB of swap are on", "sudo swapoff -a"
        )


def _meminfo(machine: Machine) -> dict[str, int]:
    """Bytes by name."""
    lines = re.findall(
        r"^(\w+):\s+(\d{1,15}) kB", machine.read("/proc/meminfo") or "", re.MULTILINE
    )
    return {name: int(kib) * 1024 for name, kib in lines}


def _container(machine: Machine, device: Device) -> Iterable[Finding]:
    """The image's CUDA, and its torch, against the host's driver and card."""
    if not any(machine.exists(path) for path in _IN_CONTAINER):
        return
    image, driver = machine.env("CUDA_VERSION"), device.attributes.get("cuda_driver")
    wanted, runs = release(image or ""), release(str(driver or ""))
    if wanted and runs and wanted[0] > runs[0]:
        yield _trouble("container-newer-than-driver").found(
            "this container",
            f"brings CUDA {image}; the host's driver {device.driver} runs CUDA {driver} at most",
            f"docker run --gpus all IMAGE-FOR-CUDA-{runs[0]}",
        )
    other = next((name for name in ("ROCM_PATH", "ASCEND_HOME_PATH") if machine.env(name)), None)
    if other is not None and device.problem is not None and "torch" in device.problem:
        yield _trouble("container-of-another-vendor").found(
            "this container",
            f"sets {other}={machine.env(other)}, the card is {device.name}: {device.problem}",
            "docker run --gpus all IMAGE-WITH-CUDA",
        )


def _bitsandbytes(machine: Machine, device: Device) -> Iterable[Finding]:
    """The libraries in its wheel against the CUDA of torch (BNB_CUDA_VERSION overrides that)."""
    version = machine.version("bitsandbytes")
    toolkit = machine.env("BNB_CUDA_VERSION") or (device.toolkit or "").replace(".", "")
    if version is None or not toolkit:
        return
    record = machine.distribution_file("bitsandbytes", f"bitsandbytes-{version}.dist-info/RECORD")
    libraries = set(re.findall(r"libbitsandbytes_cuda(\d+)\.(?:so|dll)", record or ""))
    if libraries and toolkit not in libraries:
        yield _trouble("bitsandbytes-other-cuda").found(
            f"bitsandbytes {version}",
            f"has libraries for CUDA {', '.join(sorted(libraries))}; torch needs {toolkit}",
            "pip install --upgrade bitsandbytes",
        )
