"""Streams and events of a device type, as torch.cuda has them, over torch's generic ones."""

from __future__ import annotations

from typing import Any


def classes(kind: str) -> tuple[type[Any], type[Any]]:
    """`Stream` and `Event` for devices of `kind`. Work is done when it is called: nothing waits."""
    import torch

    class Stream(torch.Stream):  # type: ignore[misc,unused-ignore]
        """A stream of a simulated device."""

        def __new__(cls, device: Any = None, priority: int = 0, **kwargs: Any) -> Any:
            if "stream_id" in kwargs:
                return super().__new__(cls, **kwargs)
            where = torch.device(kind) if device is None else _device(kind, device)
            return super().__new__(cls, device=where, priority=priority)

        def record_event(self, event: Any = None) -> Any:
            event = Event() if event is None else event
            event.record(self)
            return event

        def wait_event(self, event: Any) -> None:
            event.wait(self)

        def wait_stream(self, stream: Any) -> None:
            self.wait_event(stream.record_event())

        def __hash__(self) -> int:
            return hash((self.stream_id, self.device_index))

    class Event(torch.Event):  # type: ignore[misc,unused-ignore]
        """An event of a simulated device."""

        def __new__(
            cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
        ) -> Any:
            if interprocess:
                raise RuntimeError("events of simulated devices stay in their process")
            event = super().__new__(cls, device=torch.device(kind), blocking=blocking)
            # torch's own elapsed_time takes no event of a class derived from its own
            event._clock = torch.Event(torch.device(kind), enable_timing=enable_timing)
            return event

        def record(self, stream: Any = None) -> None:
            now = torch.accelerator.current_stream() if stream is None else stream
            super().record(now)
            self._clock.record(now)

        def wait(self, stream: Any = None) -> None:
            super().wait(torch.accelerator.current_stream() if stream is None else stream)

        def elapsed_time(self, other: Any) -> float:
            return float(self._clock.elapsed_time(other._clock))

    # its number is the handle that other libraries ask for, as cuda_stream, npu_stream
    setattr(Stream, f"{kind}_stream", property(lambda self: self.stream_id))
    return Stream, Event


def _device(kind: str, device: Any) -> Any:
    import torch

    return torch.device(kind, device) if isinstance(device, int) else torch.device(device)
