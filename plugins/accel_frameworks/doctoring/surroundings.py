"""What is around torch: shared memory, where its build came from, who else claims its devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from accel.detecting import torch_build
from accel.facts import load_facts
from accel.machine import Machine
from accel.troubles import Finding, Trouble, load_troubles
from accel.values import Device

OWN = "accel_frameworks"
SHM_ENOUGH = 2**30
"""Bytes. Containers get 64 MiB; a few workers with batches of images or long texts need more."""
AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
CONSTRAINT = "PIP_CONSTRAINT"
_SHM = "/dev/shm"  # noqa: S108 - looked at, and nothing is put there
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}


def trouble(name: str) -> Trouble:
    """One of this plugin's."""
    return load_troubles(OWN)[name]


def shared_memory(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """The size that /dev/shm was mounted with. Without a size it has half of the memory."""
    size = shm_size(machine.read("/proc/mounts") or "")
    if size is not None and size < SHM_ENOUGH:
        yield trouble("shm-too-small").found(
            _SHM,
            f"has {size >> 20} MiB",
            "sudo mount -o remount,size=8G /dev/shm, or docker run --shm-size=8g",
        )


def shm_size(mounts: str) -> int | None:
    """Bytes of the last file system mounted on /dev/shm, None where no size is given."""
    size = None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4 or fields[1] != _SHM or fields[2] != "tmpfs":
            continue
        options = dict(option.partition("=")[::2] for option in fields[3].split(","))
        text = options.get("size", "").lower()
        unit = _UNITS.get(text[-1:], 1)
        digits = text.rstrip("kmg")
        size = int(digits) * unit if digits.isascii() and digits.isdecimal() else None
    return size


def vendors_torch(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """A torch that no index has, and no constraints file to hold it."""
    version = machine.version("torch")
    if version is None or not is_vendors(version) or machine.env(CONSTRAINT):
        return
    name = "accel-constraints.txt"
    yield trouble("vendor-torch-unguarded").found(
        f"torch {version}",
        f"is on no package index, and {CONSTRAINT} is not set",
        f"export {CONSTRAINT}={{folder}}/{name}",
        files={name: f"torch=={version}\n"},
    )


def is_vendors(version: str) -> bool:
    """Whether a version of torch is none of PyTorch's own: 2.9.0+das.opt1.dtk2604, 2.9.0a0+nv25."""
    public, plus, local = version.partition("+")
    own = not plus or local in ("cpu", "xpu") or local[:2] == "cu" or local[:4] == "rocm"
    return not own or any(letter in public for letter in ("a", "git"))


def absent_card(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """A CUDA build where nothing is `cuda`, and something else, or an aarch64 processor, is."""
    build = torch_build(machine)
    if not build.get("cuda") or any(device.kind == "cuda" for device in devices):
        return
    others = [device for device in devices if device.kind != "cpu"]
    if not others and machine.platform().arch != "aarch64":
        return  # PyPI's ordinary wheel on an ordinary processor: large, and right
    version = str(build["version"]).partition("+")[0]
    beside = f"; {others[0].name} is" if others else ""
    yield trouble("torch-for-absent-card").found(
        f"torch {build['version']}",
        f"is built for CUDA {build['cuda']}, and no such card is here{beside}",
        f"uv pip install --reinstall torch=={version} --torch-backend=cpu",
    )


def bridges(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:
    """Packages that claim torch's slot for an accelerator, or torch.cuda, beside one another."""
    known: Mapping[str, Mapping[str, Any]] = load_facts(OWN, "bridges.toml").extra["bridge"]
    there = {name: facts for name, facts in known.items() if machine.version(name) is not None}
    kinds = {device.kind for device in devices}
    slots = [name for name, facts in there.items() if facts["slot"]]
    idle = [name for name in slots if there[name]["device"] not in kinds]
    if len(slots) > 1:
        gone = idle if len(idle) < len(slots) else slots[1:]
        yield trouble("two-bridges").found(
            " and ".join(slots),
            "are both installed; here is " + (", ".join(sorted(kinds - {"cpu"})) or "no card"),
            f"pip uninstall -y {' '.join(gone or slots[1:])}",
        )
    real = next((device for device in devices if device.kind == "cuda" and device.usable), None)
    over = [name for name, facts in there.items() if facts["cuda"]]
    if real is not None and over:
        yield trouble("bridge-over-cuda").found(
            ", ".join(over),
            f"answers for torch.cuda, where {real.name} is",
            f"pip uninstall -y {' '.join(over)}",
        )


RULES = (shared_memory, vendors_torch, absent_card, bridges)
