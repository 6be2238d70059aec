"""One question to NVML, NVIDIA's management library: what GPUs there are. It makes no CUDA context.

The answer is plain JSON and holds nothing private. UUIDs, by which `CUDA_VISIBLE_DEVICES` may name
a GPU, are compared here and left behind; what remains is which GPU each entry of the list meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any


def ask(visible: str | None) -> dict[str, Any]:
    """What NVML says of the driver and of every GPU, in the order of PCI addresses.

    `visible` is the value of `CUDA_VISIBLE_DEVICES`. The answer has

    - `driver` ("580.95.05") and `cuda` ("13.0"), the newest CUDA that the driver runs;
    - `gpus`, each with `index`, `name`, `compute_capability`, `pci`, `memory` (bytes, None where
      NVML will not say), `unified` (it has none of its own), `mig` (None without such a mode),
      `instances` (MIG devices: `index`, `profile`, `memory`, `gpu_instance`, `compute_instance`),
      and `speed` (cores times clock, only where the box is mixed); or `index` and `error`;
    - `named`: position in `visible` -> [GPU, instance or None], for entries that are UUIDs.

    Raises what NVML raises: no library, no driver, driver and library of different versions.
    """
    nvml = bindings()
    nvml.nvmlInit()
    try:
        handles: dict[int, Any] = {}
        found = [_found(nvml, index, handles) for index in range(nvml.nvmlDeviceGetCount())]
        names = {gpu["name"] for gpu in found if "name" in gpu}
        if len(names) > 1:
            for index, handle in handles.items():
                found[index]["speed"] = _speed(nvml, handle)
        by_name = any(character.isalpha() for character in visible or "")
        uuids = dict(_uuids(nvml, handles)) if by_name else {}
        return {
            "driver": _text(nvml.nvmlSystemGetDriverVersion()),
            "cuda": _cuda(nvml),
            "gpus": found,
            "named": named(visible or "", uuids),
        }
    finally:
        nvml.nvmlShutdown()


def bindings() -> Any:
    """Where NVML's functions are: loaded only when there is something to ask."""
    from accel_nvidia import libnvml

    return libnvml


def named(visible: str, uuids: Mapping[str, tuple[int, int | None]]) -> dict[str, list[int | None]]:
    """Which entries of a list of visible devices are the start of exactly one known UUID."""
    found: dict[str, list[int | None]] = {}
    for position, entry in enumerate(visible.split(",")):
        wanted = entry.strip()
        matches = [unit for uuid, unit in uuids.items() if uuid.startswith(wanted)]
        if wanted.startswith(("GPU-", "MIG-")) and len(matches) == 1:
            found[str(position)] = list(matches[0])
    return found


def _found(nvml: Any, index: int, handles: dict[int, Any]) -> dict[str, Any]:
    """What is said of one GPU, whose handle is put among `handles`, or the error instead.

    One that fell off the bus, or lacks power, has no handle even, and must not hide the others.
    """
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        found = _gpu(nvml, index, handle)
    except nvml.NVMLError as error:
        return {"index": index, "error": str(error)}
    handles[index] = handle
    return found


def _gpu(nvml: Any, index: int, handle: Any) -> dict[str, Any]:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    mode = _mig_mode(nvml, handle)
    instances = _instances(nvml, handle) if mode else ()
    return {
        "index": index,
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "compute_capability": f"{major}.{minor}",
        "pci": address(_text(nvml.nvmlDeviceGetPciInfo(handle).busId)),
        "memory": _memory(nvml, handle),
        "unified": _is_unified(nvml, handle),
        "mig": None if mode is None else bool(mode),
        "instances": [_instance(nvml, number, each) for number, each in instances],
    }


def _instance(nvml: Any, index: int, handle: Any) -> dict[str, Any]:
    name = _text(nvml.nvmlDeviceGetName(handle))
    return {
        "index": index,
        "profile": name.rpartition(" MIG ")[2],
        "memory": _memory(nvml, handle),
        "gpu_instance": int(nvml.nvmlDeviceGetGpuInstanceId(handle)),
        "compute_instance": int(nvml.nvmlDeviceGetComputeInstanceId(handle)),
    }


def _memory(nvml: Any, handle: Any) -> int | None:
    info = _or_none(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    return None if info is None else int(info.total)


def _is_unified(nvml: Any, handle: Any) -> bool:
    """Whether NVML has no memory of the GPU's own to speak of: it shares the host's."""
    try:
        nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError_NotSupported:
        return True
    except nvml.NVMLError:  # no permission, where a container is given a MIG instance alone
        return False
    return False


def _mig_mode(nvml: Any, handle: Any) -> int | None:
    modes = _or_none(nvml, nvml.nvmlDeviceGetMigMode, handle)
    return None if modes is None else int(modes[0])


def _instances(nvml: Any, handle: Any) -> Iterator[tuple[int, Any]]:
    """MIG devices of a GPU. Their numbers have gaps; those that exist are counted from 0."""
    count = 0
    for slot in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        found = _or_none(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot)
        if found is not None:
            yield count, found
            count += 1


def _uuids(nvml: Any, handles: Mapping[int, Any]) -> Iterator[tuple[str, tuple[int, int | None]]]:
    for index, handle in handles.items():
        uuid = _or_none(nvml, nvml.nvmlDeviceGetUUID, handle)
        if uuid is None:
            continue
        yield _text(uuid), (index, None)
        if _mig_mode(nvml, handle):
            for number, each in _instances(nvml, handle):
                yield _text(nvml.nvmlDeviceGetUUID(each)), (index, number)


def _speed(nvml: Any, handle: Any) -> int | None:
    """Cores times megahertz: the kind of measure by which CUDA puts the fastest GPU first."""
    cores = _or_none(nvml, nvml.nvmlDeviceGetNumGpuCores, handle)
    clock = _or_none(nvml, nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM)
    return None if cores is None or clock is None else int(cores) * int(clock)


def _cuda(nvml: Any) -> str | None:
    number = _or_none(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
    return None if not number else f"{number // 1000}.{number % 1000 // 10}"


def _or_none(nvml: Any, question: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None where NVML says that there is none (not supported, not found, ...)."""
    try:
        return question(*arguments)
    except nvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def address(bus: str) -> str:
    """A PCI address as Linux writes it: NVML's domain has eight digits, `0000000F:01:00.0`."""
    domain, _, rest = bus.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"
