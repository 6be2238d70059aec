"""What can be wrong around NPUs beside what detection finds: the rules behind doctor.toml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from accel.detecting import bridge_problem
from accel.machine import Machine
from accel.troubles import Finding, Trouble, load_troubles
from accel.values import Device

OWN = "accel_ascend"
VENDOR = "ascend"
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"


def examine(machine: Machine, devices: Sequence[Device], nodes: Sequence[int]) -> Iterator[Finding]:
    """Findings on this machine; `nodes` are the numbers of its /dev/davinciN."""
    npus = [device for device in devices if device.vendor == VENDOR]
    if not npus and not nodes:
        yield from _bridge_alone(machine)
        return
    yield from _ids(machine, nodes)
    yield from _variable(machine, npus)
    yield from _triton(machine)


def _trouble(name: str) -> Trouble:
    return load_troubles(OWN)[f"ascend-{name}"]


def _bridge_alone(machine: Machine) -> Iterable[Finding]:
    """torch_npu without anything that it could drive, unless torch is told to leave it alone."""
    version = machine.version("torch-npu")
    if version is None or machine.env(AUTOLOAD) == "0":
        return
    problem = bridge_problem(machine, "torch-npu", install="pip install torch-npu")
    also = f"; {problem.problem}" if problem else ""
    yield _trouble("bridge-without-npu").found(
        f"torch-npu {version}", f"is installed, and there is no NPU{also}", f"export {AUTOLOAD}=0"
    )


def _ids(machine: Machine, nodes: Sequence[int]) -> Iterable[Finding]:
    """A list that names the host's numbers: none that is out of range here would be by chance."""
    setting = machine.env(VISIBLE)
    if not setting or not nodes:
        return
    entries = [entry.strip() for entry in setting.split(",")]
    numbers = [int(entry) for entry in entries if entry.isascii() and entry.isdecimal()]
    if len(numbers) != len(entries) or all(number < len(nodes) for number in numbers):
        return
    logical = {physical: place for place, physical in enumerate(nodes)}
    meant = [logical.get(number) for number in numbers]
    known = [str(place) for place in meant if place is not None]
    whole = len(known) == len(meant)
    yield _trouble("device-ids").found(
        f"{VISIBLE}={setting}",
        f"there are {len(nodes)} NPUs here, 0 to {len(nodes) - 1}; their nodes are "
        + ", ".join(f"/dev/davinci{number}" for number in nodes),
        f"export {VISIBLE}={','.join(known)}" if whole else f"unset {VISIBLE}",
    )


def _variable(machine: Machine, npus: Sequence[Device]) -> Iterable[Finding]:
    setting = machine.env("CUDA_VISIBLE_DEVICES")
    if not setting or machine.env(VISIBLE) is not None or not npus:
        return
    yield _trouble("cuda-variable").found(
        f"CUDA_VISIBLE_DEVICES={setting}",
        f"has no effect on {len(npus)} x {npus[0].name}; {VISIBLE} is not set",
        f"export {VISIBLE}={setting}",
    )


def _triton(machine: Machine) -> Iterable[Finding]:
    ours, others = machine.version("triton-ascend"), machine.version("triton")
    if ours is None or others is None:
        return
    yield _trouble("triton-overwritten").found(
        "triton",
        f"triton {others} and triton-ascend {ours} are both installed",
        f"pip uninstall -y triton triton-ascend && pip install triton-ascend=={ours}",
    )
