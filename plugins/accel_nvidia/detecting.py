"""Finds NVIDIA GPUs by PCI ids, device nodes, /proc and NVML: no torch, no CUDA context.

A GPU is claimed on NVIDIA's own evidence only. NVML's answer alone is none: other vendors ship
libraries that answer to its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from accel.detecting import Problem
from accel.machine import Answer, Machine, Pci
from accel.value import replaced
from accel.values import Device
from accel_nvidia import nvml
from accel_nvidia.evidence import PCI_VENDOR, is_nvidias
from accel_nvidia.knowledge import (
    UNKNOWN,
    arch_of,
    card_arch,
    card_name,
    cards,
    family_of,
    is_known,
    traits_of,
)
from accel_nvidia.ordering import Unit, cuda_order, seen
from accel_nvidia.wheels import judge

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

PRIORITY = 100
CONTROL_NODE = "/dev/nvidiactl"
_LOG = "sudo dmesg | grep NVRM"
_HIDDEN = Problem(
    "hidden by CUDA_VISIBLE_DEVICES, which names no GPU that is here",
    "unset CUDA_VISIBLE_DEVICES",
)


def detect(machine: Machine, family: str) -> tuple[Device, ...]:
    """Devices of one family on the machine, with why torch cannot use them, if it cannot."""
    return tuple(
        _with_torch(device, machine)
        for device in _found(machine)
        if family_of(device.arch) == family
    )


def _found(machine: Machine) -> tuple[Device, ...]:
    """Every NVIDIA device, with all but what the installed torch has to say."""
    gpus = machine.pci_of(PCI_VENDOR)
    if not gpus and not is_nvidias(machine):
        return ()
    answer = machine.query("nvml", lambda: nvml.ask(machine.env("CUDA_VISIBLE_DEVICES")))
    if answer.ok and answer.value["gpus"]:
        spoken_for = list(_from_nvml(machine, answer.value))
        listed = {gpu.get("pci") for gpu in answer.value["gpus"]}
        # what NVIDIA's driver has and NVML does not list is not ours: a container is shown its own
        mute = [card for card in gpus if card.address not in listed and card.driver != "nvidia"]
    else:
        if not gpus:
            return (_jetson(machine) or _no_card(machine, answer),)
        spoken_for, mute = [], list(gpus)
    start = len(spoken_for)
    return (
        *spoken_for,
        *(_mute_card(machine, card, start + n, answer) for n, card in enumerate(mute)),
    )


# GPUs that NVML speaks of --------------------------------------------------------------------


def _from_nvml(machine: Machine, answer: Mapping[str, Any]) -> Iterator[Device]:
    others = {card.address for card in machine.pci() if card.vendor != PCI_VENDOR}
    gpus = [gpu for gpu in answer["gpus"] if "error" not in gpu and gpu["pci"] not in others]
    position = {gpu["index"]: number for number, gpu in enumerate(gpus)}
    named = {
        entry: [position[gpu], instance]
        for entry, (gpu, instance) in answer.get("named", {}).items()
        if gpu in position
    }
    order, certain = cuda_order(gpus, machine.env("CUDA_DEVICE_ORDER"))
    visible = machine.env("CUDA_VISIBLE_DEVICES")
    units = seen(gpus, order, visible, named)
    for index, unit in enumerate(units):
        device = _device(machine, answer, gpus[unit[0]], unit, index, certain)
        lost = _without_instances(gpus[unit[0]]) if unit[1] is None else None
        yield replaced(device, **lost._asdict()) if lost else device
    if not units:
        for index, number in enumerate(order):
            hidden = _device(machine, answer, gpus[number], (number, None), index, certain)
            yield replaced(hidden, **_hidden(gpus[number])._asdict())
    broken = [gpu for gpu in answer["gpus"] if "error" in gpu]
    for index, gpu in enumerate(broken, len(units) or len(gpus)):
        yield Device(
            vendor="nvidia",
            name="NVIDIA GPU",
            kind="cuda",
            arch=UNKNOWN,
            index=index,
            driver=answer["driver"],
            priority=PRIORITY,
            problem=f"GPU {gpu['index']} does not answer its driver: {gpu['error']}",
            remedy=_LOG,
            attributes={"physical_index": gpu["index"]},
        )


def _hidden(gpu: Mapping[str, Any]) -> Problem:
    untold = "; ".join(gpu.get("untold", ()))
    also = f" (NVML failed to tell of it: {untold})" if untold else ""
    return _without_instances(gpu) or Problem(f"{_HIDDEN.problem}{also}", _HIDDEN.remedy)


def _without_instances(gpu: Mapping[str, Any]) -> Problem | None:
    """Why a GPU in MIG mode is none that CUDA could use, or that accel knows of."""
    if not gpu["mig"] or gpu["instances"]:
        return None
    if gpu.get("untold"):
        lines = "; ".join(gpu["untold"])
        return Problem(f"in MIG mode, and NVML fails to tell its instances: {lines}", _LOG)
    return Problem("in MIG mode without an instance", "sudo nvidia-smi mig -cgi 0 -C")


def _device(
    machine: Machine,
    answer: Mapping[str, Any],
    gpu: Mapping[str, Any],
    unit: Unit,
    index: int,
    certain: bool,
) -> Device:
    arch = arch_of(gpu["compute_capability"])
    unified = traits_of(arch).get("memory_model") == "unified" or bool(gpu.get("unified"))
    instance = None if unit[1] is None else gpu["instances"][unit[1]]
    memory = gpu["memory"] if instance is None else instance["memory"]
    attributes = _attributes(machine, gpu, arch, unified)
    if not certain:
        attributes["index_is"] = (
            "an estimate of CUDA's order; CUDA_DEVICE_ORDER=PCI_BUS_ID fixes it"
        )
    if instance is not None:
        attributes["mig"] = {
            "profile": instance["profile"],
            "gpu_instance": instance["gpu_instance"],
            "compute_instance": instance["compute_instance"],
            "note": "CUDA sees one MIG instance a process, and no whole GPU beside it; "
            "CUDA_VISIBLE_DEVICES=MIG-... chooses another",
        }
    return Device(
        vendor="nvidia",
        name=gpu["name"] if instance is None else f"{gpu['name']} MIG {instance['profile'] or '?'}",
        kind="cuda",
        arch=arch,
        index=index,
        family=family_of(arch) if is_known(arch) else "",
        memory=machine.memory().total if unified else memory,
        memory_model="unified" if unified else "discrete",
        driver=answer["driver"],
        pci_address=gpu["pci"],
        priority=PRIORITY,
        attributes={**attributes, "cuda_driver": answer["cuda"]},
    )


def _attributes(
    machine: Machine, gpu: Mapping[str, Any], arch: str, unified: bool
) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "compute_capability": gpu["compute_capability"],
        "physical_index": gpu["index"],
        "numa": _numa(machine, gpu["pci"]),
        "mig": gpu["mig"],
        **_of_arch(arch),
    }
    if gpu.get("untold"):
        attributes["untold"] = list(gpu["untold"])
    if unified:
        attributes["integrated"] = True
        attributes["memory_is"] = "the host's: MemTotal is the size, MemAvailable is what is free"
    return attributes


def _of_arch(arch: str) -> dict[str, Any]:
    """What the facts say of an architecture beyond implementations, or that there are none."""
    extra = traits_of(arch)
    found = {key: extra[key] for key in ("features", "smem_kib") if key in extra}
    if not is_known(arch):
        found["remark"] = f"no facts on {arch}: only what every CUDA device has, each by its probe"
    return found


def _numa(machine: Machine, address: str) -> int | None:
    text = (machine.read(f"/sys/bus/pci/devices/{address}/numa_node") or "").strip()
    return int(text) if text.isdecimal() else None  # -1: the firmware does not say


# GPUs that it does not speak of --------------------------------------------------------------


def _mute_card(machine: Machine, card: Pci, index: int, answer: Answer) -> Device:
    arch = card_arch(card)
    unified = traits_of(arch).get("memory_model") == "unified"
    why = _why_mute(machine, card, answer)
    return Device(
        vendor="nvidia",
        name=card_name(card),
        kind="cuda",
        arch=arch,
        index=index,
        family=family_of(arch) if is_known(arch) else "",
        memory=machine.memory().total if unified else None,
        memory_model="unified" if unified else "discrete",
        pci_address=card.address,
        priority=PRIORITY,
        problem=why.problem,
        remedy=why.remedy,
        attributes={"numa": _numa(machine, card.address), **_of_arch(arch)},
    )


def _why_mute(machine: Machine, card: Pci, answer: Answer) -> Problem:
    """Why the driver does not speak for a card that is there."""
    if card.driver == "vfio-pci":
        return Problem(
            "handed to a virtual machine (bound to vfio-pci)", "unbind the card from vfio-pci"
        )
    if card.driver != "nvidia":
        bound = f"{card.driver} is bound to it" if card.driver else "no driver is bound to it"
        return Problem(
            f"driver missing: {bound}, not NVIDIA's",
            "sudo ubuntu-drivers install --gpgpu, or your system's NVIDIA driver package; reboot",
        )
    if not machine.exists(CONTROL_NODE):
        return Problem(
            f"the driver is loaded, but there is no {CONTROL_NODE}: a container without the GPU",
            "start the container with --gpus all; outside of one: sudo nvidia-modprobe -u -c=0",
        )
    if answer.ok:
        return Problem("the driver lists no GPU", _LOG)
    return Problem(f"NVML does not answer: {answer.error}", "nvidia-smi")


def _no_card(machine: Machine, answer: Answer) -> Device:
    """A driver without any card: there should be one, so the machine is not taken for a CPU."""
    said = f"NVML: {answer.error}" if answer.error else "NVML lists none"
    return Device(
        vendor="nvidia",
        name="NVIDIA GPU",
        kind="cuda",
        arch=UNKNOWN,
        priority=PRIORITY,
        problem=f"NVIDIA's driver is here, but it shows no GPU ({said})",
        remedy="nvidia-smi",
        attributes=_of_arch(UNKNOWN),
    )


def _jetson(machine: Machine) -> Device | None:
    """The GPU of a Jetson board where NVML does not speak of it, by the board's device tree."""
    if not machine.exists("/etc/nv_tegra_release"):
        return None
    chips = (machine.read("/proc/device-tree/compatible") or "").replace(",nvidia", "\0nvidia")
    known: Mapping[str, str] = cards().extra["tegra"]
    arch = next((known[chip] for chip in chips.split("\0") if chip in known), UNKNOWN)
    model = (machine.read("/proc/device-tree/model") or "").strip("\0 \n")
    digits = arch.removeprefix("sm_")
    capability = f"{digits[:-1]}.{digits[-1]}" if arch != UNKNOWN else None
    shown = seen([{}], [0], machine.env("CUDA_VISIBLE_DEVICES"), {})
    return Device(
        vendor="nvidia",
        name=model or "NVIDIA Jetson",
        kind="cuda",
        arch=arch,
        family=family_of(arch) if is_known(arch) else "",
        memory=machine.memory().total,
        memory_model="unified",
        priority=PRIORITY,
        problem=None if shown else _HIDDEN.problem,
        remedy=None if shown else _HIDDEN.remedy,
        attributes={"compute_capability": capability, "integrated": True, **_of_arch(arch)},
    )


# torch ---------------------------------------------------------------------------------------


def _with_torch(device: Device, machine: Machine) -> Device:
    """The device with its toolkit and, where nothing worse is known, torch's own problem."""
    toolkit, problem = judge(
        machine,
        device.arch,
        driver=device.driver,
        cuda=device.attributes.get("cuda_driver"),
    )
    if problem is None or device.problem is not None:
        return replaced(device, toolkit=toolkit)
    return replaced(device, toolkit=toolkit, problem=problem.problem, remedy=problem.remedy)
