"""One question to NVML, NVIDIA's management library: what GPUs there are. It makes no CUDA context.

The answer is plain JSON and holds nothing private. UUIDs, by which `CUDA_VISIBLE_DEVICES` may name
a GPU, are compared here and left behind; what remains is which GPU each entry of the list meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
      `speed` (cores times clock, only where the box is mixed) and `untold` (lines on what NVML
      failed to say of it, where it did); or `index` and `error`;
    - `named`: position in `visible` -> [GPU, instance or None], for entries that are UUIDs.

    Raises what NVML raises: no library, no driver, driver and library of different versions.
    """
    nvml = bindings()
    nvml.nvmlInit()
    try:
        cards = [_Card(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
        found = [card.described() for card in cards]
        mixed = len({gpu["name"] for gpu in found if "name" in gpu}) > 1
        by_name = any(character.isalpha() for character in visible or "")
        uuids: dict[str, tuple[int, int | None]] = {}
        for card, gpu in zip(cards, found, strict=True):
            if "error" in gpu:
                continue
            if mixed:
                gpu["speed"] = _speed(card)
            if by_name:
                uuids.update(_uuids(card))
            if card.untold:
                gpu["untold"] = list(card.untold)
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


class _Card:
    """One GPU, asked one thing after the other.

    What a question fails with is a line in `untold`, and no reason to leave out the rest.
    """

    def __init__(self, nvml: Any, index: int) -> None:
        self.nvml = nvml
        self.index = index
        self.handle: Any = None
        self.instances: list[Any] = []
        self.untold: dict[str, None] = {}

    def described(self) -> dict[str, Any]:
        """What is said of it, or the error instead.

        One that fell off the bus, or lacks power, has no handle even, and must not hide the others.
        """
        try:
            self.handle = self.nvml.nvmlDeviceGetHandleByIndex(self.index)
            return _gpu(self)
        except self.nvml.NVMLError as error:
            return {"index": self.index, "error": str(error)}

    def ask(self, what: str, question: str, *arguments: Any) -> Any:
        """The answer; None where there is none, with a line if that is not as it should be."""
        nvml = self.nvml
        try:
            return getattr(nvml, question)(*arguments)
        except (
            nvml.NVMLError_NotSupported,
            nvml.NVMLError_NotFound,
            nvml.NVMLError_FunctionNotFound,
            nvml.NVMLError_NoPermission,
        ):
            return None  # there is no such thing, or a container was given a part of the GPU alone
        except nvml.NVMLError as error:
            self.untold[f"{what}: {error}"] = None
            return None


def _gpu(card: _Card) -> dict[str, Any]:
    """Without the first three it is no GPU that can be used; it can be without the rest."""
    nvml, handle = card.nvml, card.handle
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    name = _text(nvml.nvmlDeviceGetName(handle))
    pci = address(_text(nvml.nvmlDeviceGetPciInfo(handle).busId))
    modes = card.ask("MIG mode", "nvmlDeviceGetMigMode", handle)
    card.instances = list(_instances(card)) if modes and modes[0] else []
    return {
        "index": card.index,
        "name": name,
        "compute_capability": f"{major}.{minor}",
        "pci": pci,
        "memory": _memory(card, "memory", handle),
        "unified": _is_unified(card),
        "mig": None if modes is None else bool(modes[0]),
        "instances": [_instance(card, number, each) for number, each in enumerate(card.instances)],
    }


def _instances(card: _Card) -> Iterator[Any]:
    """MIG devices of a GPU. Their slots have gaps; those that exist are counted from 0."""
    what = "MIG instances"
    slots = card.ask(what, "nvmlDeviceGetMaxMigDeviceCount", card.handle)
    for slot in range(slots or 0):
        found = card.ask(what, "nvmlDeviceGetMigDeviceHandleByIndex", card.handle, slot)
        if found is not None:
            yield found


def _instance(card: _Card, number: int, handle: Any) -> dict[str, Any]:
    what = f"MIG instance {number}"
    name = card.ask(what, "nvmlDeviceGetName", handle)
    return {
        "index": number,
        "profile": None if name is None else _text(name).rpartition(" MIG ")[2],
        "memory": _memory(card, what, handle),
        "gpu_instance": card.ask(what, "nvmlDeviceGetGpuInstanceId", handle),
        "compute_instance": card.ask(what, "nvmlDeviceGetComputeInstanceId", handle),
    }


def _memory(card: _Card, what: str, handle: Any) -> int | None:
    info = card.ask(what, "nvmlDeviceGetMemoryInfo", handle)
    return None if info is None else int(info.total)


def _is_unified(card: _Card) -> bool:
    """Whether NVML has no memory of the GPU's own to speak of: it shares the host's."""
    try:
        card.nvml.nvmlDeviceGetMemoryInfo(card.handle)
    except card.nvml.NVMLError_NotSupported:
        return True
    except card.nvml.NVMLError:  # no permission, where a container is given a MIG instance alone
        return False
    return False


def _uuids(card: _Card) -> Iterator[tuple[str, tuple[int, int | None]]]:
    uuid = card.ask("UUID", "nvmlDeviceGetUUID", card.handle)
    if uuid is not None:
        yield _text(uuid), (card.index, None)
    for number, each in enumerate(card.instances):
        uuid = card.ask(f"UUID of MIG instance {number}", "nvmlDeviceGetUUID", each)
        if uuid is not None:
            yield _text(uuid), (card.index, number)


def _speed(card: _Card) -> int | None:
    """Cores times megahertz: the kind of measure by which CUDA puts the fastest GPU first."""
    cores = card.ask("cores", "nvmlDeviceGetNumGpuCores", card.handle)
    sm = card.nvml.NVML_CLOCK_SM
    clock = card.ask("clock", "nvmlDeviceGetMaxClockInfo", card.handle, sm)
    return None if cores is None or clock is None else int(cores) * int(clock)


def _cuda(nvml: Any) -> str | None:
    try:
        number = nvml.nvmlSystemGetCudaDriverVersion_v2()
    except nvml.NVMLError:
        return None
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def address(bus: str) -> str:
    """A PCI address as Linux writes it: NVML's domain has eight digits, `0000000F:01:00.0`."""
    domain, _, rest = bus.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"
