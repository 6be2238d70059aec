"""`torch.cuda` of a torch that was built without CUDA, speaking for a simulated card.

Where torch keeps a boundary to its C++ (`torch._C._cuda_*`), the simulation stands behind it, and
torch's own Python runs above; only what torch leaves out of such a build is put in its modules.
"""

from __future__ import annotations

import contextlib
import importlib
from types import SimpleNamespace
from typing import Any

from accel_simulator import devices, memory, streams
from accel_simulator.cards import Card, facts
from accel_simulator.changes import Changes

KIND = "cuda"


def install(card: Card, extension: Any, changes: Changes) -> None:
    """Put the card behind `torch.cuda`."""
    import torch

    _without_compiled_operators()
    index_of = devices.indexer(KIND, extension)
    guards = devices.guards(KIND, extension, index_of)
    _boundary(card, extension, guards, changes)
    own = torch.cuda
    for name in ("_exchange_device", "_maybe_exchange_device"):
        changes.set(own, name, guards[name])
    changes.set(own, "_get_device_properties", lambda index: devices.properties(card, index))
    changes.set(own, "_cudart", _runtime(extension))
    changes.set(own, "_is_in_bad_fork", lambda: False)
    # recurrent layers ask, and torch warns of its own build
    changes.set(torch.backends.cudnn, "is_acceptable", lambda tensor: False)
    changes.set(own, "_initialized", False)
    changes.set(own, "_cached_device_count", None)
    changes.set(own, "_device_count_nvml", guards["device_count"])
    changes.set(own, "_device_count_amdsmi", guards["device_count"])
    changes.set(
        own,
        "default_generators",
        tuple(extension.generator(KIND, index) for index in range(len(card.devices))),
    )
    _streams(changes)
    _storages(changes)
    _versions(card, changes)


def _without_compiled_operators() -> None:
    """Have torch decide now, while it still says that it was built without CUDA.

    From 2.13 some operators on CUDA are Triton's or CuTe's where these are installed, and their
    compilers look for a real driver. torch puts them in place after it has called its backends.
    """
    with contextlib.suppress(ModuleNotFoundError):  # torch before 2.13 has none
        importlib.import_module("torch._native")


def _boundary(card: Card, extension: Any, guards: dict[str, Any], changes: Changes) -> None:
    """The functions of torch's C++ that torch.cuda calls."""
    import torch

    device_count, current_device = guards["device_count"], guards["current_device"]
    counters = memory.functions(KIND, extension, devices.indexer(KIND, extension))

    def stream_data(stream: Any) -> tuple[int, int, int]:
        return stream.stream_id, stream.device_index, stream.device_type

    def current_stream(index: int) -> tuple[int, int, int]:
        return stream_data(torch._C._accelerator_getStream(index))

    def default_stream(index: int) -> tuple[int, int, int]:
        return 0, index, current_stream(index)[2]

    def set_stream(stream_id: int, device_index: int, device_type: int) -> None:
        torch._C._accelerator_setStream(
            torch.Stream(stream_id=stream_id, device_index=device_index, device_type=device_type)
        )

    functions: dict[str, Any] = {
        "getDeviceCount": device_count,
        "init": lambda: None,
        "setDevice": lambda index: extension.set_current(KIND, index),
        "getDevice": current_device,
        "exchangeDevice": guards["_exchange_device"],
        "maybeExchangeDevice": guards["_maybe_exchange_device"],
        "getArchFlags": lambda: " ".join(_arch_list(card)),
        "synchronize": lambda: torch._C._accelerator_synchronizeDevice(current_device()),
        "canDeviceAccessPeer": lambda device, peer: device != peer,
        "ipc_collect": lambda: None,
        "sleep": lambda cycles: None,
        "getCurrentStream": current_stream,
        "getCurrentRawStream": lambda index: current_stream(index)[0],
        "getDefaultStream": default_stream,
        "setStream": set_stream,
        "isCurrentStreamCapturing": lambda: False,
        "emptyCache": counters["empty_cache"],
        "memoryStats": lambda device: extension.stats(KIND, device),
        "resetPeakMemoryStats": counters["reset_peak_memory_stats"],
        "resetAccumulatedMemoryStats": counters["reset_accumulated_memory_stats"],
        "setMemoryFraction": counters["set_per_process_memory_fraction"],
        "getMemoryFraction": counters["get_per_process_memory_fraction"],
        "getAllocatorBackend": lambda: "native",
        "getCompiledVersion": lambda: _number(card.build.get("cuda")),
        "set_sync_debug_mode": lambda mode: None,
        "get_sync_debug_mode": lambda: 0,
        "lock_mutex": lambda: None,
        "unlock_mutex": lambda: None,
    }
    for name, function in functions.items():
        changes.set(torch._C, f"_cuda_{name}", function)
    changes.set(torch._C, "_has_cuda", True)
    changes.set(torch.cuda.graphs, "_cuda_isCurrentStreamCapturing", lambda: False)
    changes.set(torch._C, "_broadcast_coalesced", _not_simulated("torch.nn.DataParallel"))


def _not_simulated(what: str) -> Any:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{what} is not simulated; torch.distributed is")

    return refuse


def _runtime(extension: Any) -> Any:
    """The few functions of the CUDA runtime that torch and libraries call through torch."""

    def memory_info(device: int) -> tuple[int, int]:
        return extension.free_bytes(KIND, device), extension.capacity(KIND, device)

    return SimpleNamespace(
        cudaError=SimpleNamespace(success=0),
        cudaGetErrorString=lambda code: f"CUDA error {code}",
        cudaMemGetInfo=memory_info,
        cudaProfilerStart=lambda: 0,
        cudaProfilerStop=lambda: 0,
        cudaHostRegister=lambda pointer, size, flags: 0,
        cudaHostUnregister=lambda pointer: 0,
    )


def _storages(changes: Changes) -> None:
    """A build without CUDA makes no storage of that type by itself; a tensor brings one."""
    import torch

    original = torch.storage._to

    def to(self: Any, device: Any, non_blocking: bool = False) -> Any:
        where = torch.device(device)
        if where.type != KIND or self.device == where:
            return original(self, device, non_blocking)
        made = torch.empty(self.nbytes(), dtype=torch.uint8, device=where).untyped_storage()
        return made.copy_(self, non_blocking)

    changes.set(torch.storage, "_to", to)


def _streams(changes: Changes) -> None:
    import torch

    stream, event = streams.classes(KIND)
    for owner in (torch.cuda, torch.cuda.streams):
        changes.set(owner, "Stream", stream)
        changes.set(owner, "Event", event)


def _versions(card: Card, changes: Changes) -> None:
    """`torch.version` as in the torch that was recorded with the card."""
    import torch

    for name in ("cuda", "hip"):
        changes.set(torch.version, name, card.build.get(name))
    if card.build.get("hip") is None and card.build.get("cuda") is None:
        changes.set(torch.version, "cuda", card.first.toolkit)


def _number(version: str | None) -> int:
    major, _, minor = (version or "0.0").partition(".")
    return int(major) * 1000 + int(minor.partition(".")[0] or 0) * 10


def _arch_list(card: Card) -> list[str]:
    """The architectures of the recorded build: PyTorch's own for its toolkit, else the card's."""
    known: list[str] = facts()["toolkits"].get(str(card.build.get("cuda")), [])
    return known if known and card.first.arch.startswith("sm_") else [card.first.arch]
