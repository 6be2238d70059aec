"""`torch.xpu` of a torch that was built without it, speaking for a simulated card."""

from __future__ import annotations

from typing import Any

from accel_simulator import devices, memory, streams
from accel_simulator.cards import Card
from accel_simulator.changes import Changes

KIND = "xpu"


def install(card: Card, extension: Any, changes: Changes) -> None:
    """Put the card behind `torch.xpu`."""
    import torch

    index_of = devices.indexer(KIND, extension)
    guards = devices.guards(KIND, extension, index_of)
    counters = memory.functions(KIND, extension, index_of)

    def current_stream(index: int) -> tuple[int, int, int]:
        stream = torch._C._accelerator_getStream(index)
        return stream.stream_id, stream.device_index, stream.device_type

    def set_stream(stream_id: int, device_index: int, device_type: int) -> None:
        torch._C._accelerator_setStream(
            torch.Stream(stream_id=stream_id, device_index=device_index, device_type=device_type)
        )

    functions: dict[str, Any] = {
        "getDeviceCount": guards["device_count"],
        "init": lambda: None,
        "setDevice": lambda index: extension.set_current(KIND, index),
        "getDevice": guards["current_device"],
        "exchangeDevice": guards["_exchange_device"],
        "maybeExchangeDevice": guards["_maybe_exchange_device"],
        "getArchFlags": lambda: card.first.arch,
        "synchronize": torch._C._accelerator_synchronizeDevice,
        "canDeviceAccessPeer": lambda device, peer: device != peer,
        "getCurrentStream": current_stream,
        "getCurrentRawStream": lambda index: current_stream(index)[0],
        "setStream": set_stream,
        "emptyCache": counters["empty_cache"],
        "memoryStats": lambda device: extension.stats(KIND, device),
        "resetPeakMemoryStats": counters["reset_peak_memory_stats"],
        "resetAccumulatedMemoryStats": counters["reset_accumulated_memory_stats"],
        "getMemoryInfo": counters["mem_get_info"],
        "setMemoryFraction": counters["set_per_process_memory_fraction"],
        "getMemoryFraction": counters["get_per_process_memory_fraction"],
    }
    for name, function in functions.items():
        changes.set(torch._C, f"_xpu_{name}", function)
    changes.set(torch._C, "_has_xpu", True)
    own = torch.xpu
    for name in ("_exchange_device", "_maybe_exchange_device", "device_count"):
        changes.set(own, name, guards[name])
    changes.set(own, "_is_compiled", lambda: True)
    changes.set(own, "_is_in_bad_fork", lambda: False)
    changes.set(own, "_initialized", False)
    changes.set(own, "_get_device_properties", lambda index: devices.properties(card, index))
    changes.set(
        own,
        "default_generators",
        tuple(extension.generator(KIND, index) for index in range(len(card.devices))),
    )
    stream, event = streams.classes(KIND)
    for owner in (own, own.streams):
        changes.set(owner, "Stream", stream)
        changes.set(owner, "Event", event)
