"""Whoever does for the device that is there what `torch.cuda` does for CUDA."""

from __future__ import annotations

import collections
import contextlib
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from accel.resolving import Capabilities
from accel.values import Feature
from accel_frameworks.torch import asking, hosts
from accel_frameworks.torch.generators import redirecting
from accel_frameworks.torch.refusing import refusal
from accel_frameworks.torch.target import Target

NAMED_OTHERWISE = {
    "max_memory_cached": "max_memory_reserved",
    "memory_cached": "memory_reserved",
    "reset_max_memory_allocated": "reset_peak_memory_stats",
    "reset_max_memory_cached": "reset_peak_memory_stats",
}
NOTHING_TO_DO = frozenset(
    (
        "caching_allocator_enable",
        "empty_cache",
        "get_gencode_flags",
        "ipc_collect",
        "reset_accumulated_host_memory_stats",
        "reset_accumulated_memory_stats",
        "reset_peak_host_memory_stats",
        "reset_peak_memory_stats",
        "set_per_process_memory_fraction",
        "set_sync_debug_mode",
    )
)
"""Hints: where the device has no such function, leaving it out changes no result."""
PLAIN_ANSWERS: dict[str, Any] = {
    "can_device_access_peer": False,
    "get_allocator_backend": "native",
    "get_arch_list": [],
    "get_gencode_flags": "",
    "get_per_process_memory_fraction": 1.0,
    "get_sync_debug_mode": 0,
    "host_memory_stats": {},
    "host_memory_stats_as_nested_dict": {},
    "is_current_stream_capturing": False,
    "list_gpu_processes": "no processes are known",
    "memory_snapshot": [],
    "memory_usage": 0,
    "utilization": 0,
}


class Backing:
    """Whoever does for the device what `torch.cuda` does for CUDA."""

    def __init__(self, target: Target, capabilities: Capabilities) -> None:
        import torch

        self.target = target
        self.capabilities = capabilities
        self.host: hosts.Host | None = None
        self.module: Any = getattr(torch, target.kind, None)
        if not target.indexed:
            kind = hosts.Metal if target.kind == "mps" else hosts.Host
            self.host = kind(target, capabilities.device.memory)

    def function(self, name: str) -> Callable[..., Any]:
        """What does `name`: the device's module, torch.accelerator, or the nearest thing."""
        name = NAMED_OTHERWISE.get(name, name)
        own = getattr(self.host or self.module, name, None)
        if own is not None:
            return own if self.host is not None else mapped(own, self.target)
        general = getattr(self, name, None) or self._accelerator(name)
        if general is not None:
            return general
        if name in NOTHING_TO_DO or name in PLAIN_ANSWERS:
            answer = PLAIN_ANSWERS.get(name)
            return lambda *args, **kwargs: answer
        return refusing(self.target, name)

    def type(self, name: str) -> Any:
        """The device's own Stream or Event, else torch's general one."""
        import torch

        own = getattr(self.host or self.module, name, None) or getattr(torch, name)
        return own if self.host is not None else redirecting(self.target)(own)

    def stream_context(self) -> Any:
        """The class behind `with torch.cuda.stream(s)`; some modules have only the function."""
        found = getattr(self.host or self.module, "StreamContext", None)
        if found is not None:
            return found
        enter = self.function("stream")
        return type("StreamContext", (), {"__new__": lambda cls, stream: enter(stream)})

    def _accelerator(self, name: str) -> Callable[..., Any] | None:
        import torch

        names = {"current_device": "current_device_index", "mem_get_info": "get_memory_info"}
        found = getattr(getattr(torch, "accelerator", None), names.get(name, name), None)
        return None if found is None or self.host is not None else mapped(found, self.target)

    # Questions

    def is_available(self) -> bool:
        frame = asking.asker()
        if self.target.kind == "cpu":
            counts_on_it = self.target.relied_on or asking.is_rank_of_nccl(frame)
            return counts_on_it or asking.refuses_without(frame)
        return True

    def device_count(self) -> int:
        return int(self.function("device_count")())

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        if not self.capabilities.of(Feature.DTYPE):
            return including_emulation
        return self.capabilities.supports(Feature.DTYPE, "bfloat16")

    def is_tf32_supported(self) -> bool:
        return False

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        """What a script that asks wants to know, in CUDA's numbers.

        (8, 0), the first with bfloat16, where the device has bfloat16; (7, 0), the first with fast
        float16, where it has float16; else (6, 1). It is no statement about speed.
        """
        if not self.capabilities.of(Feature.DTYPE):
            return (7, 0)
        for dtype, number in (("bfloat16", (8, 0)), ("float16", (7, 0))):
            if self.capabilities.supports(Feature.DTYPE, dtype):
                return number
        return (6, 1)

    # What not every module has

    def get_device_name(self, device: Any = None) -> str:
        return self.target.name

    def get_device_properties(self, device: Any = None) -> None:
        """Nothing of its own: `Properties` has what is known."""

    def stream(self, stream: Any) -> Any:
        """A torch.Stream is its own context manager."""
        return contextlib.nullcontext() if stream is None else stream

    def seed(self) -> None:
        self.function("manual_seed")(secrets.randbits(63))

    def seed_all(self) -> None:
        self.function("manual_seed_all")(secrets.randbits(63))

    def get_rng_state_all(self) -> list[Any]:
        one = self.function("get_rng_state")
        count = self.device_count() if self.host is None else 1
        return [one(index) for index in range(count)]

    def set_rng_state_all(self, new_states: Iterable[Any]) -> None:
        one = self.function("set_rng_state")
        for index, state in enumerate(new_states):
            one(state, index)

    def memory_stats(self, device: Any = None) -> dict[str, Any]:
        """CUDA's keys, with what is known of them; the rest reads 0."""
        used = self.function("memory_allocated")(device)
        kept = self.function("memory_reserved")(device)
        known = {
            "allocated_bytes.all.current": used,
            "allocated_bytes.all.peak": self.function("max_memory_allocated")(device),
            "reserved_bytes.all.current": kept,
            "reserved_bytes.all.peak": self.function("max_memory_reserved")(device),
        }
        return collections.defaultdict(int, known)

    def memory_stats_as_nested_dict(self, device: Any = None) -> dict[str, Any]:
        nested: dict[str, Any] = {}
        for name, value in self.function("memory_stats")(device).items():
            *path, last = name.split(".")
            level = nested
            for step in path:
                level = level.setdefault(step, {})
            level[last] = value
        return nested

    def memory_summary(self, device: Any = None, abbreviated: bool = False) -> str:
        stats = self.function("memory_stats")(device)
        lines = [f"memory of {self.target.name}, in bytes"]
        lines += [f"  {name}  {value}" for name, value in sorted(stats.items()) if value]
        return "\n".join(lines)

    def device_memory_used(self, device: Any = None) -> int:
        free, total = self.function("mem_get_info")(device)
        return int(total - free)


class Properties:
    """The device's own properties, with those of CUDA's that it lacks."""

    def __init__(self, own: Any, backing: Backing) -> None:
        self._own = own
        self.major, self.minor = backing.get_device_capability()
        self._lacking = {
            "name": backing.target.name,
            "total_memory": backing.capabilities.device.memory or 0,
            "multi_processor_count": 1,
            "warp_size": 32,
            "is_integrated": 0,
            "is_multi_gpu_board": 0,
            "gcnArchName": backing.capabilities.device.arch,
        }

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        own = getattr(self._own, name, None)
        if own is None and name not in self._lacking:
            raise AttributeError(f"{self._lacking['name']} has no property {name!r}")
        return self._lacking[name] if own is None else own

    def __repr__(self) -> str:
        return f"_CudaDeviceProperties({self._own!r}, redirected by accel)"


def mapped(function: Callable[..., Any], target: Target) -> Callable[..., Any]:
    """`function`, called with the device's names for CUDA's."""

    def call(*args: Any, **kwargs: Any) -> Any:
        args = target.swap(args, kwargs)
        return function(*args, **kwargs)

    return call


def refusing(target: Target, name: str) -> Callable[..., Any]:
    """What raises the error for `torch.cuda.name`."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise refusal(f"torch.cuda.{name}", target)

    return refuse
