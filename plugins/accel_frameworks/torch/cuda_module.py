"""The functions of `torch.cuda`, done by the torch module of the device that is there."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from accel.resolving import Capabilities
from accel.values import Patch
from accel_frameworks.torch import asking
from accel_frameworks.torch.backing import Backing, Properties, mapped, refusing
from accel_frameworks.torch.patches import instead, patch
from accel_frameworks.torch.target import Target

ACTIONS = (
    "caching_allocator_enable",
    "can_device_access_peer",
    "current_device",
    "current_stream",
    "default_stream",
    "device_memory_used",
    "empty_cache",
    "get_arch_list",
    "get_allocator_backend",
    "get_device_name",
    "get_gencode_flags",
    "get_per_process_memory_fraction",
    "get_rng_state",
    "get_rng_state_all",
    "host_memory_stats",
    "host_memory_stats_as_nested_dict",
    "initial_seed",
    "ipc_collect",
    "is_current_stream_capturing",
    "list_gpu_processes",
    "max_memory_allocated",
    "max_memory_cached",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_cached",
    "memory_reserved",
    "memory_snapshot",
    "memory_stats",
    "memory_stats_as_nested_dict",
    "memory_summary",
    "memory_usage",
    "reset_accumulated_host_memory_stats",
    "reset_accumulated_memory_stats",
    "reset_max_memory_allocated",
    "reset_max_memory_cached",
    "reset_peak_host_memory_stats",
    "reset_peak_memory_stats",
    "set_per_process_memory_fraction",
    "set_stream",
    "set_sync_debug_mode",
    "get_sync_debug_mode",
    "stream",
    "synchronize",
    "utilization",
)
"""Done on the device that is there, whoever asks: on CUDA they could only fail here."""

SEEDS = (
    "manual_seed",
    "manual_seed_all",
    "seed",
    "seed_all",
    "set_rng_state",
    "set_rng_state_all",
)
"""As above for scripts. Libraries call them beside the device's own ones, often in workers."""

UNKNOWN = ("clock_rate", "power_draw", "temperature")
"""Readings that only the vendor's driver could give."""


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """Every function of `torch.cuda` that can mean something, and the context managers."""
    backing = Backing(target, capabilities)
    for name in ("_lazy_init", "init"):
        yield patch(f"torch.cuda:{name}", lambda original: _no_init(original, target))
    for name in ACTIONS:
        yield patch(f"torch.cuda:{name}", functools.partial(_acting, backing, name))
    for name in SEEDS:
        yield patch(f"torch.cuda:{name}", functools.partial(_seeding, backing, name))
    for name in UNKNOWN:
        yield patch(f"torch.cuda:{name}", instead(refusing(target, name)))
    yield patch("torch.cuda:set_device", functools.partial(_set_device, backing))
    yield patch("torch.cuda:get_device_properties", functools.partial(_properties, backing))
    yield patch("torch.cuda:get_device_capability", instead(backing.get_device_capability))
    for name, answer in (
        ("is_available", backing.is_available),
        ("is_initialized", backing.is_available),
        ("device_count", backing.device_count),
        ("is_bf16_supported", backing.is_bf16_supported),
        ("is_tf32_supported", backing.is_tf32_supported),
    ):
        yield patch(f"torch.cuda:{name}", functools.partial(_asked, target, name, answer))
    yield patch("torch.backends.cuda:is_built", functools.partial(_asked, target, "", _yes))
    yield patch("torch.cuda:device", instead(_device_context(backing)))
    yield patch("torch.cuda:device_of", instead(_device_of(backing)))
    yield patch("torch.cuda:Stream", instead(backing.type("Stream")))
    yield patch("torch.cuda:Event", instead(backing.type("Event")))
    yield patch("torch.cuda:StreamContext", instead(backing.stream_context()))
    yield patch("torch.cuda:default_generators", instead(_generators(target)))
    for name in ("range_push", "range_pop", "range_start", "range_end", "mark"):
        yield patch(f"torch.cuda.nvtx:{name}", instead(_marks_nothing))
    yield patch("torch.cuda.nvtx:range", instead(_no_range))
    for name in ("start", "stop", "init"):
        yield patch(f"torch.cuda.profiler:{name}", instead(_marks_nothing))
    yield patch("torch.cuda.profiler:profile", instead(contextlib.nullcontext))
    for name in ("_record_memory_history", "_snapshot", "_dump_snapshot"):
        yield patch(f"torch.cuda.memory:{name}", functools.partial(_history, backing, name))
    yield patch(
        "torch.profiler.profiler:_KinetoProfile.__init__",
        lambda original: _profiled(original, target),
    )


def _acting(backing: Backing, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    does = backing.function(name)

    @functools.wraps(original)
    def act(*args: Any, **kwargs: Any) -> Any:
        return does(*args, **kwargs)

    return act


def _seeding(backing: Backing, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    does = backing.function(name)
    any_library = backing.target.kind == "cpu"

    @functools.wraps(original)
    def seed(*args: Any, **kwargs: Any) -> Any:
        if asking.knows_devices(asking.asker(), any_library=any_library):
            return original(*args, **kwargs)
        return does(*args, **kwargs)

    return seed


def _asked(
    target: Target, name: str, answer: Callable[..., Any], original: Callable[..., Any]
) -> Callable[..., Any]:
    any_library = target.kind == "cpu"

    @functools.wraps(original)
    def ask(*args: Any, **kwargs: Any) -> Any:
        if asking.knows_devices(asking.asker(), any_library=any_library):
            return original(*args, **kwargs)
        return answer(*args, **kwargs)

    ask._dynamo_marked_constant = True  # type: ignore[attr-defined]  # asked while compiling
    return ask


def _yes() -> bool:
    return True


def _no_init(original: Callable[..., None], target: Target) -> Callable[..., None]:
    """There is nothing to start: the device starts itself when it is used."""

    @functools.wraps(original)
    def init() -> None:
        target.cuda_was_started = True

    return init


def _set_device(backing: Backing, original: Callable[..., Any]) -> Callable[..., Any]:
    does = backing.function("set_device")

    @functools.wraps(original)
    def set_device(device: Any) -> None:
        index = backing.target.index_of(device)
        if index >= 0:
            does(index)
            backing.target.prefer(None)
            asking.rely_on(backing.target)

    return set_device


def _properties(backing: Backing, original: Callable[..., Any]) -> Callable[..., Any]:
    does = backing.function("get_device_properties")

    @functools.wraps(original)
    def get_device_properties(device: Any = None) -> Any:
        index = device
        if index is None and backing.host is None:
            index = backing.function("current_device")()
        return Properties(does(index), backing)

    return get_device_properties


def _device_context(backing: Backing) -> Any:
    """`torch.cuda.device`: a class, as people subclass it and ask isinstance()."""
    current, choose = backing.function("current_device"), backing.function("set_device")

    class device:  # noqa: N801 - torch's own name
        """`with torch.cuda.device(1):` on the device that is there."""

        def __init__(self, device: Any) -> None:
            self.idx = -1 if device is None else backing.target.index_of(device)
            self.prev_idx = -1

        def __enter__(self) -> Any:
            if self.idx >= 0:
                self.prev_idx = current()
                if self.prev_idx != self.idx:
                    choose(self.idx)
            return self

        def __exit__(self, *error: object) -> None:
            if 0 <= self.prev_idx != self.idx:
                choose(self.prev_idx)

    device.__module__ = "torch.cuda"
    return device


def _device_of(backing: Backing) -> Any:
    base = _device_context(backing)

    class device_of(base):  # type: ignore[misc,valid-type]  # noqa: N801 - torch's own name
        """`with torch.cuda.device_of(tensor):`, nothing for a tensor elsewhere."""

        def __init__(self, obj: Any) -> None:
            mine = obj.device.type == backing.target.kind
            super().__init__(obj.device.index if mine else None)

    return device_of


def _history(backing: Backing, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The allocator's history: the device's own, or none is kept."""
    own = getattr(getattr(backing.module, "memory", None), name, None)
    if own is not None and backing.host is None:
        return mapped(own, backing.target)
    if name == "_dump_snapshot":
        return refusing(backing.target, f"memory.{name}")

    @functools.wraps(original)
    def history(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}

    return history


def _profiled(original: Callable[..., None], target: Target) -> Callable[..., None]:
    """`ProfilerActivity.CUDA` is the activity of the device; the CPU's own is always known."""
    from torch.profiler import ProfilerActivity

    own = {"cpu": None, "mps": None, "xpu": "XPU"}.get(target.kind, "PrivateUse1")
    there = getattr(ProfilerActivity, own, None) if own else None

    @functools.wraps(original)
    def init(self: Any, *args: Any, activities: Any = None, **kwargs: Any) -> None:
        if activities is not None:
            moved = [there if one is ProfilerActivity.CUDA else one for one in activities]
            activities = [one for one in moved if one is not None] or [ProfilerActivity.CPU]
        original(self, *args, activities=activities, **kwargs)

    return init


def _generators(target: Target) -> Any:
    import torch

    if target.kind == "cpu":
        return (torch.default_generator,)
    return getattr(getattr(torch, target.kind, None), "default_generators", ())


def _marks_nothing(*args: Any, **kwargs: Any) -> int:
    return 0


@contextlib.contextmanager
def _no_range(msg: str, *args: Any, **kwargs: Any) -> Iterator[None]:
    yield
