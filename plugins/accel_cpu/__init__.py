"""The host processor: always one device, always the last resort.

The architecture is named by what torch makes a difference of: the vector and matrix units that
its kernels are compiled for. What each can do stands in `facts.toml`.
"""

from __future__ import annotations

from collections.abc import Iterable

from accel.facts import ArchFacts, Facts, load_facts
from accel.hookspecs import hookimpl
from accel.machine import Cpu, Machine
from accel.value import replaced
from accel.values import Device, Feature, Impl

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

OWN = "accel_cpu"
_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}
_X86 = (
    # the first whose flags are all there; AMX's kernels live on top of its tile and int8 parts
    ("x86_64_amx_bf16", frozenset({"amx_tile", "amx_bf16", "avx512f"})),
    ("x86_64_avx512_bf16", frozenset({"avx512_bf16", "avx512f"})),
    ("x86_64_avx512", frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})),
    ("x86_64_avx2", frozenset({"avx2", "fma"})),
)
_COMPILERS = ("g++", "c++", "clang++")
_FOLDERS = ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")


@hookimpl
def accel_detect(machine: Machine) -> Iterable[Device]:
    """The one processor; torch has no index for it. Memory is the host's, in bytes."""
    cpu, facts = machine.cpu(), load_facts(OWN)
    model, implementer = _model(machine, cpu, facts)
    maker = _maker(model, implementer, facts)
    arch = architecture(machine)
    known = facts.arch(arch)
    yield Device(
        # not its maker: `device="amd"` must never come to mean a processor beside AMD's GPU
        vendor="cpu",
        name=model or (arch if machine.platform().arch else "unknown processor"),
        kind="cpu",
        arch=arch,
        family=known.family if known else machine.platform().arch,
        memory=machine.memory().total,
        memory_model="unified",
        priority=0,
        attributes=_attributes(machine, cpu, maker),
    )


@hookimpl
def accel_capabilities(device: Device, machine: Machine) -> Iterable[Impl]:
    """What the facts say of this processor, less what needs a compiler that is not there."""
    facts = load_facts(OWN)
    return [_with_compiler(impl, machine) for impl in _known(facts, device.arch).impls]


def architecture(machine: Machine) -> str:
    """The processor's name by the units torch uses: `x86_64_avx2`, `aarch64_bf16`, `arm64`."""
    platform = machine.platform()
    if platform.system == "Darwin" and platform.arch == "arm64":
        return "arm64"
    arch = platform.arch.lower()
    arch = _MACHINES.get(arch, arch)
    flags = machine.cpu().flags
    if arch == "x86_64":
        return next((name for name, needed in _X86 if needed <= flags), arch)
    if arch == "aarch64" and "bf16" in flags:
        return "aarch64_bf16"
    return arch or "unknown"


def _known(facts: Facts, arch: str) -> ArchFacts:
    """The facts on `arch`, or those that hold on any processor torch runs on."""
    return facts.arch(arch) or facts.archs["generic"]


def _model(machine: Machine, cpu: Cpu, facts: Facts) -> tuple[str, str]:
    """The processor's name in words, and the number of its implementer (Arm only).

    Linux gives an Arm core as a part number, which means something only with its implementer.
    """
    if not cpu.model.startswith("0x"):
        return cpu.model, ""
    import re

    text = machine.read("/proc/cpuinfo") or ""
    found = re.search(r"^CPU implementer\s*:\s*(0x[0-9a-f]+)", text, re.MULTILINE)
    implementer = found.group(1) if found else ""
    parts: dict[str, str] = facts.extra["arm_parts"]
    return parts.get(f"{implementer}:{cpu.model}", f"Arm part {cpu.model}"), implementer


def _maker(model: str, implementer: str, facts: Facts) -> str | None:
    makers: dict[str, str] = facts.extra["makers"]
    letters = "".join(c if c.isascii() and c.isalpha() else " " for c in model)
    words = {*letters.lower().split(), implementer}
    return next((maker for word, maker in makers.items() if word in words), None)


def _attributes(machine: Machine, cpu: Cpu, maker: str | None) -> dict[str, Any]:
    """Logical processors, and what a container allows of them and of the memory, where it does."""
    found = {
        "maker": maker,
        "processors": cpu.count,
        "quota": _processor_quota(machine),
        "memory_limit": _memory_limit(machine),
    }
    return {name: value for name, value in found.items() if value is not None}


def _processor_quota(machine: Machine) -> float | None:
    """Processors' worth of time a control group (version 2, then 1) grants, or None for all."""
    both = (machine.read("/sys/fs/cgroup/cpu.max") or "").split()
    if not both:
        folder = "/sys/fs/cgroup/cpu"
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        both = [(machine.read(f"{folder}/{name}") or "").strip() for name in names]
    if len(both) != 2 or not all(part.isdecimal() for part in both) or int(both[1]) == 0:
        return None
    return round(int(both[0]) / int(both[1]), 2)


def _memory_limit(machine: Machine) -> int | None:
    """Bytes a control group (version 2) grants, where that is less than the host has."""
    text = (machine.read("/sys/fs/cgroup/memory.max") or "").strip()
    total = machine.memory().total
    if not text.isdecimal() or (total is not None and int(text) >= total):
        return None
    return int(text)


def _with_compiler(impl: Impl, machine: Machine) -> Impl:
    """torch.compile writes C++ for a processor, so without a compiler it is not to be had."""
    if impl.feature is not Feature.OP or impl.name != "compile" or _has_compiler(machine):
        return impl
    return replaced(
        impl,
        unavailable="torch.compile writes C++ for a processor and no compiler is in "
        f"{', '.join(_FOLDERS)} or named by CXX",
    )


def _has_compiler(machine: Machine) -> bool:
    if machine.env("CXX"):
        return True
    folders = [*_FOLDERS, *(f"{prefix}/bin" for prefix in [machine.env("CONDA_PREFIX")] if prefix)]
    return any(machine.exists(f"{folder}/{name}") for folder in folders for name in _COMPILERS)
