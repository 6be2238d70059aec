"""Whether torch can use the cards as things stand, and the one command that mends it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from accel.detecting import Problem, torch_build
from accel.machine import Machine

KFD = "/dev/kfd"


def problem_of(vendor: str, machine: Machine) -> Problem | None:
    """The first thing that stands between torch and the cards, from the driver upwards."""
    if vendor == "hygon":
        return _driver(machine, "Hygon", ("hycu", "hydcu"), _HYGON_DRIVER) or _dtk_torch(machine)
    return _driver(machine, "AMD", ("amdgpu",), _AMD_DRIVER) or _rocm_torch(machine)


_AMD_DRIVER = "sudo amdgpu-install --usecase=rocm,dkms && sudo reboot"
_HYGON_DRIVER = "sudo bash rock-*.run && sudo reboot"
_AMD_TORCH = "uv pip install --reinstall torch --torch-backend=rocm6.4"


def _driver(machine: Machine, brand: str, modules: tuple[str, ...], install: str) -> Problem | None:
    if machine.exists(KFD):
        return None
    nodes = "/dev/kfd, /dev/mkfd and /dev/dri" if brand == "Hygon" else "/dev/kfd and /dev/dri"
    if any(card.driver in modules for card in machine.pci()):
        options = [f"--device={node}" for node in re.findall(r"/dev/\w+", nodes)]
        return Problem(
            f"the host's {brand} driver has the card, but {KFD} is not in this container",
            f"docker run {' '.join(options)} --group-add video IMAGE",
        )
    return Problem(
        f"the card is on the PCI bus, but {brand}'s driver is not loaded ({KFD} is missing)",
        install,
    )


def _rocm_torch(machine: Machine) -> Problem | None:
    build = torch_build(machine)
    if not build:
        return Problem("torch is not installed", _AMD_TORCH.replace("--reinstall ", ""))
    if build.get("hip"):
        return None
    return Problem(f"torch {build['version']} is built for {_target(build)}, not ROCm", _AMD_TORCH)


def _dtk_torch(machine: Machine) -> Problem | None:
    """DTK's torch is a build of Hygon's own; anything that asks pip for torch may replace it."""
    build = torch_build(machine)
    install = f"pip install --no-deps --force-reinstall {_wheel(machine)}"
    if not build:
        return Problem("torch is not installed; Hygon's comes with DTK, not from PyPI", install)
    version = str(build["version"])
    if re.search(r"das|dtk", version, re.IGNORECASE):
        return None
    target = "AMD's ROCm" if build.get("hip") else _target(build)
    return Problem(
        f"torch {version} is built for {target}: it has replaced the torch of Hygon's DTK", install
    )


def _target(build: Mapping[str, Any]) -> str:
    cuda = build.get("cuda")
    return f"CUDA {cuda}" if cuda else "the CPU"


def _wheel(machine: Machine) -> str:
    """The file name of DTK's torch for this DTK and Python, as far as the machine tells them."""
    text = machine.read("/opt/dtk/.info/version") or machine.read("/opt/dtk/.info/version-dev")
    found = re.match(r"\s*(\d{2})\.(\d{2})(?:\.(\d+))?", text or "")
    dtk = "dtk" + "".join(part for part in found.groups() if part) if found else "dtk*"
    python = "".join(machine.platform().python.split(".")[:2]) or "*"
    return f"torch-*+das*{dtk}*-cp{python}-*.whl"
