"""What `torch.cuda` offers, for devices whose torch module has little of it: CPU and MPS.

Work on a CPU is done when the call returns, so streams keep their order by themselves, an event is
a moment, and the device's memory is the process's.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from accel_frameworks.torch.refusing import refusal
from accel_frameworks.torch.target import Target


class _PerThread(threading.local):
    """CUDA's current device and stream are a thread's own, and so are these."""

    current = 0

    def __init__(self, default: Any) -> None:
        self.streams = [default]


class Host:
    """`torch.cuda`'s functions on the host's own processor; `device` is accel's."""

    def __init__(self, target: Target, memory: int | None) -> None:
        self.target = target
        self.memory = memory
        self._peak = 0
        self.Stream, self.Event = _stream_and_event(target, self)
        self.StreamContext = _stream_context(self)
        self._default = self.Stream()
        self.here = _PerThread(self._default)

    # devices

    def device_count(self) -> int:
        """One for each rank on this host, so that every rank has the one of its number."""
        import os

        return max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))

    def current_device(self) -> int:
        return self.here.current

    def set_device(self, device: Any) -> None:
        index = self.target.index_of(device)
        if index >= 0:
            self.here.current = index

    def synchronize(self, device: Any = None) -> None:
        pass

    def get_device_name(self, device: Any = None) -> str:
        return self.target.name

    def get_device_properties(self, device: Any = None) -> Any:
        import os
        from types import SimpleNamespace

        return SimpleNamespace(
            name=self.target.name,
            total_memory=self.memory or self.mem_get_info()[1],
            multi_processor_count=os.cpu_count() or 1,
        )

    # streams

    def current_stream(self, device: Any = None) -> Any:
        return self.here.streams[-1]

    def default_stream(self, device: Any = None) -> Any:
        return self._default

    def set_stream(self, stream: Any) -> None:
        if stream is not None:
            self.here.streams[-1] = stream

    def stream(self, stream: Any) -> Any:
        """`with torch.cuda.stream(s)`; None changes nothing, as in torch."""
        return self.StreamContext(stream)

    # memory, in bytes

    def memory_allocated(self, device: Any = None) -> int:
        import psutil

        used = int(psutil.Process().memory_info().rss)
        self._peak = max(self._peak, used)
        return used

    def memory_reserved(self, device: Any = None) -> int:
        return self.memory_allocated()

    def max_memory_allocated(self, device: Any = None) -> int:
        """The most that was seen when asked: the system keeps no peak that can be reset."""
        self.memory_allocated()
        return self._peak

    def max_memory_reserved(self, device: Any = None) -> int:
        return self.max_memory_allocated()

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        self._peak = 0

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        import psutil

        memory = psutil.virtual_memory()
        return int(memory.available), int(memory.total)

    def empty_cache(self) -> None:
        pass

    # random numbers

    def manual_seed(self, seed: int) -> None:
        import torch

        torch.default_generator.manual_seed(int(seed))

    def manual_seed_all(self, seed: int) -> None:
        self.manual_seed(seed)

    def seed(self) -> None:
        import torch

        torch.default_generator.seed()

    def seed_all(self) -> None:
        self.seed()

    def initial_seed(self) -> int:
        import torch

        return int(torch.default_generator.initial_seed())

    def get_rng_state(self, device: Any = None) -> Any:
        import torch

        return torch.default_generator.get_state()

    def set_rng_state(self, new_state: Any, device: Any = None) -> None:
        import torch

        torch.default_generator.set_state(new_state)


class Metal(Host):
    """The same on Apple's GPU, where `torch.mps` has memory, seeds and a queue to wait for."""

    @property
    def _mps(self) -> Any:
        import torch

        return torch.mps

    def synchronize(self, device: Any = None) -> None:
        self._mps.synchronize()

    def memory_allocated(self, device: Any = None) -> int:
        used = int(self._mps.current_allocated_memory())
        self._peak = max(self._peak, used)
        return used

    def memory_reserved(self, device: Any = None) -> int:
        return int(self._mps.driver_allocated_memory())

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        total = int(self._mps.recommended_max_memory())
        return max(0, total - self.memory_reserved()), total

    def empty_cache(self) -> None:
        self._mps.empty_cache()

    def manual_seed(self, seed: int) -> None:
        self._mps.manual_seed(int(seed))

    def seed(self) -> None:
        self._mps.seed()

    def get_rng_state(self, device: Any = None) -> Any:
        return self._mps.get_rng_state()

    def set_rng_state(self, new_state: Any, device: Any = None) -> None:
        self._mps.set_rng_state(new_state)


def _stream_context(host: Host) -> Any:
    class StreamContext:
        """A class, as in torch: people ask isinstance()."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            streams = host.here.streams
            streams.append(streams[-1] if self.stream is None else self.stream)

        def __exit__(self, *error: object) -> None:
            host.here.streams.pop()

    StreamContext.__module__, StreamContext.__qualname__ = "torch.cuda", "StreamContext"
    return StreamContext


def _stream_and_event(target: Target, host: Host) -> tuple[Any, Any]:
    class Stream:
        """A queue of work, which here is done in the order in which it is given."""

        cuda_stream = stream_id = device_index = 0

        def __init__(self, device: Any = None, priority: int = 0, **kwargs: Any) -> None:
            self.priority = priority

        @property
        def device(self) -> Any:
            return target.of("cuda")

        @staticmethod
        def priority_range() -> tuple[int, int]:
            return 0, 0

        def wait_event(self, event: Any) -> None:
            pass

        def wait_stream(self, stream: Any) -> None:
            pass

        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            host.synchronize()

        def record_event(self, event: Any = None) -> Any:
            event = Event() if event is None else event
            event.record(self)
            return event

        def __enter__(self) -> Any:
            host.here.streams.append(self)
            return self

        def __exit__(self, *error: object) -> None:
            host.here.streams.pop()

        def __repr__(self) -> str:
            return f"<torch.cuda.Stream device={self.device}>"

    class Event:
        """A moment in a queue of work."""

        cuda_event = 0

        def __init__(
            self,
            enable_timing: bool = False,
            blocking: bool = False,
            interprocess: bool = False,
            **kwargs: Any,
        ) -> None:
            self.enable_timing = enable_timing
            self._moment: float | None = None

        @property
        def device(self) -> Any:
            return target.of("cuda")

        def record(self, stream: Any = None) -> None:
            if self.enable_timing:
                host.synchronize()
            self._moment = time.perf_counter()

        def wait(self, stream: Any = None) -> None:
            pass

        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            host.synchronize()

        def elapsed_time(self, end_event: Any) -> float:
            """Milliseconds from this event to `end_event`. ValueError as in torch."""
            if not (self.enable_timing and end_event.enable_timing):
                raise ValueError("Both events must be created with argument 'enable_timing=True'.")
            if self._moment is None or end_event._moment is None:
                raise ValueError("Both events must be recorded before calculating elapsed time.")
            return float(end_event._moment - self._moment) * 1000.0

        def ipc_handle(self) -> Any:
            raise refusal("torch.cuda.Event.ipc_handle", target)

    for made in (Stream, Event):
        made.__module__, made.__qualname__ = "torch.cuda", made.__name__
    return Stream, Event
