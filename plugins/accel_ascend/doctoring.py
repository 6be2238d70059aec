"""What can be wrong around NPUs beside what detection finds: the rules behind doctor.toml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from accel.detecting import Problem, bridge_problem
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
    yield from _ids(machine, npus, nodes)
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


def physical_ids(machine: Machine, nodes: Sequence[int]) -> Problem | None:
    """What is wrong with a list that names the host's numbers, and the list that was meant.

    None where every number is one of this container's: what is in range may be meant so.
    """
    numbers = _numbers(machine)
    if not nodes or all(number < len(nodes) for number in numbers):
        return None
    logical = {physical: place for place, physical in enumerate(nodes)}
    meant = [logical.get(number) for number in numbers]
    known = [str(place) for place in meant if place is not None]
    whole = len(known) == len(meant)
    return Problem(
        f"there are {len(nodes)} NPUs here, 0 to {len(nodes) - 1}; their nodes are "
        + ", ".join(f"/dev/davinci{number}" for number in nodes),
        f"export {VISIBLE}={','.join(known)}" if whole else f"unset {VISIBLE}",
    )


def hidden_by_ids(machine: Machine, nodes: Sequence[int]) -> Problem | None:
    """Why every NPU is hidden, where it is because the list begins with a number of the host's."""
    ids, first = physical_ids(machine, nodes), _numbers(machine)[:1]
    if ids is None or first[0] < len(nodes) or first[0] not in nodes:
        return None
    return Problem(f"hidden by {VISIBLE}={machine.env(VISIBLE)!r}: {ids.problem}", ids.remedy)


def _numbers(machine: Machine) -> list[int]:
    """The list of visible devices; empty where anything in it is no number that a device has."""
    entries = [entry.strip() for entry in (machine.env(VISIBLE) or "").split(",")]
    numbers = [e for e in entries if e.isascii() and e.isdecimal() and len(e) < 10]
    return [int(number) for number in numbers] if len(numbers) == len(entries) else []


def _ids(machine: Machine, npus: Sequence[Device], nodes: Sequence[int]) -> Iterable[Finding]:
    """A list that ends early, at a number of the host's; one that shows no NPU is their problem."""
    ids = physical_ids(machine, nodes)
    if ids is not None and not any(VISIBLE in (npu.problem or "") for npu in npus):
        setting = f"{VISIBLE}={machine.env(VISIBLE)}"
        yield _trouble("device-ids").found(setting, ids.problem, ids.remedy)


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
