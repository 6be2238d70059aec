"""Which of torch's calls the suite asks of a device: its own module's, else torch.accelerator's."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch

from accel.testing.conformance.inside.calls import Absent, Calls


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A device type whose module has little, as PyTorch's OpenReg has: `meta` plays it."""
    module = types.SimpleNamespace(__name__="torch_odd", device_count=lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    return Calls("meta:0")


def answering(monkeypatch: pytest.MonkeyPatch, name: str, answer: Any) -> None:
    def call() -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(torch.accelerator, name, call)


def test_the_devices_own_module_comes_first(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "device_count", 7)
    answering(monkeypatch, "current_device_index", 1)
    assert calls.device_count() == 2
    assert calls.general == set()
    assert calls.current_device() == 1
    assert calls.general == {"current_device"}
    assert not hasattr(calls, "get_amp_supported_dtype")


def test_another_accelerator_does_not_answer_for_it(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in (None, torch.device("cuda")):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda other=other: other)
        assert not hasattr(calls, "synchronize")


def test_what_a_backend_has_not_registered_is_absent_and_what_it_does_wrong_is_not(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "get_memory_info", NotImplementedError("no getMemoryInfo"))
    with pytest.raises(Absent, match=r"torch\.accelerator\.get_memory_info: no getMemoryInfo"):
        calls.mem_get_info()
    answering(
        monkeypatch,
        "memory_allocated",
        RuntimeError("Allocator for meta is not a DeviceAllocator."),
    )
    with pytest.raises(Absent, match="not a DeviceAllocator"):
        calls.memory_allocated()
    answering(monkeypatch, "synchronize", RuntimeError("device is lost"))
    with pytest.raises(RuntimeError, match="device is lost"):
        calls.synchronize()


def test_streams_and_events_are_torchs_general_ones_for_that_device(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Event:
        def __init__(self, device: Any, **options: Any) -> None:
            made.append((device, options))

        def record(self) -> None:
            """As torch.Event has it."""

    monkeypatch.setattr(torch, "Event", Event)
    calls.Event(enable_timing=True)
    assert made == [(torch.device("meta:0"), {"enable_timing": True})]
    assert hasattr(calls.Event, "record")
    assert not hasattr(calls.Event, "query")
    side = object()
    assert calls.stream(side) is side
