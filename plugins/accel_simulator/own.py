"""`torch.npu`, `torch.mlu`, `torch.musa`: the modules that a vendor's bridge puts into torch.

The names are those of the bridges, as far as transformers, accelerate, peft, LLaMA-Factory and
deepspeed look at them (a test holds them against the sources of the real `torch_npu`).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from accel_simulator import devices, memory, randomness, streams
from accel_simulator.cards import Card
from accel_simulator.changes import Changes

_methods_made = False


def install(card: Card, extension: Any, changes: Changes) -> None:
    """Make `torch.<kind>` and what belongs to it: methods of tensors, autocast, the bridge."""
    global _methods_made
    import torch

    module = _module(card, extension)
    changes.set(torch, card.kind, module)
    for name in ("", ".random", ".memory", ".streams", ".amp"):
        part = module if not name else getattr(module, name[1:])
        changes.module(f"torch.{card.kind}{name}", part)
    if not _methods_made:
        torch.utils.generate_methods_for_privateuse1_backend(
            for_tensor=True, for_module=True, for_packed_sequence=True, for_storage=True
        )
        _methods_made = True
    bridge = card.words["bridge"]

    def forget() -> None:
        for name in [n for n in sys.modules if n == bridge or n.startswith(f"{bridge}.")]:
            del sys.modules[name]

    changes.also(forget)


def _module(card: Card, extension: Any) -> ModuleType:
    import torch

    kind = card.kind
    index_of = devices.indexer(kind, extension)
    module = ModuleType(f"torch.{kind}", f"The simulated {card.first.name}.")
    parts = {
        "memory": memory.functions(kind, extension, index_of),
        "random": randomness.functions(kind, extension, index_of),
        "streams": _streams(kind, index_of),
        "amp": _amp(kind),
    }
    for name, functions in parts.items():
        part = ModuleType(f"torch.{kind}.{name}", f"A part of torch.{kind}.")
        part.__dict__.update(functions)
        setattr(module, name, part)
        if name != "amp":
            module.__dict__.update(functions)
    module.__dict__.update(devices.guards(kind, extension, index_of))
    module.__dict__.update(_queries(card, index_of))
    module.__dict__["OutOfMemoryError"] = torch.OutOfMemoryError
    if kind == "npu":
        module.__dict__.update(_ascend())
    return module


def _queries(card: Card, index_of: Any) -> dict[str, Any]:
    """What is asked of the card: names, properties, dtypes."""
    import torch

    def is_available() -> bool:
        return bool(torch.accelerator.device_count()) and bool(card.devices)

    def get_device_name(device: Any = None) -> str:
        return str(devices.properties(card, index_of(device)).name)  # type: ignore[attr-defined]

    def get_device_properties(device: Any = None) -> devices.Properties:
        return devices.properties(card, index_of(device))

    def synchronize(device: Any = None) -> None:
        torch._C._accelerator_synchronizeDevice(index_of(device))

    def is_bf16_supported(*ignored: Any, **options: Any) -> bool:
        return "bfloat16" in card.dtypes

    def get_amp_supported_dtype() -> list[torch.dtype]:
        names = ("float16", "bfloat16", "float32")
        return [getattr(torch, name) for name in names if name in card.dtypes]

    return {
        "is_available": is_available,
        "is_initialized": is_available,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "_lazy_call": lambda call, **options: call(),
        "_is_in_bad_fork": lambda: False,
        "get_device_name": get_device_name,
        "get_device_properties": get_device_properties,
        "get_device_capability": lambda device=None: None,
        "can_device_access_peer": lambda device, peer: device != peer,
        "synchronize": synchronize,
        "is_bf16_supported": is_bf16_supported,
        "get_amp_supported_dtype": get_amp_supported_dtype,
        "ipc_collect": lambda: None,
    }


def _streams(kind: str, index_of: Any) -> dict[str, Any]:
    import torch

    stream_class, event_class = streams.classes(kind)

    def current_stream(device: Any = None) -> Any:
        found = torch._C._accelerator_getStream(index_of(device))
        return stream_class(
            stream_id=found.stream_id,
            device_index=found.device_index,
            device_type=found.device_type,
        )

    def default_stream(device: Any = None) -> Any:
        now = current_stream(device)
        return stream_class(stream_id=0, device_index=now.device_index, device_type=now.device_type)

    def set_stream(stream: Any) -> None:
        if stream is not None:
            torch._C._accelerator_setStream(stream)

    class StreamContext:
        """Makes a stream the current one for a while; None changes nothing."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream
            self._before: Any = None

        def __enter__(self) -> Any:
            if self.stream is not None:
                self._before = current_stream(self.stream.device)
                set_stream(self.stream)
            return self.stream

        def __exit__(self, *error: object) -> None:
            if self.stream is not None:
                set_stream(self._before)

    return {
        "Stream": stream_class,
        "Event": event_class,
        "StreamContext": StreamContext,
        "current_stream": current_stream,
        "default_stream": default_stream,
        "set_stream": set_stream,
        "stream": StreamContext,
    }


def _amp(kind: str) -> dict[str, Any]:
    import torch

    class GradScaler(torch.amp.GradScaler):  # type: ignore[misc,unused-ignore]
        """torch's own scaler, for this device."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("dynamic", None)  # a switch of the bridge's own for its fused kernel
            super().__init__(kind, *arguments, **options)

    class autocast(torch.amp.autocast_mode.autocast):  # type: ignore[misc,unused-ignore]  # noqa: N801
        """torch's own autocast, for this device."""

        def __init__(
            self, enabled: bool = True, dtype: Any = torch.float16, cache_enabled: bool = True
        ) -> None:
            super().__init__(kind, enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)

    return {"GradScaler": GradScaler, "autocast": autocast}


def _ascend() -> dict[str, Any]:
    """Switches that only torch_npu has. They choose how CANN compiles: nothing is compiled here."""
    settings: dict[str, Any] = {"jit_compile": False}

    def set_compile_mode(jit_compile: bool = False) -> None:
        settings["jit_compile"] = bool(jit_compile)

    def set_option(option: dict[str, Any]) -> None:
        settings.update(option)

    def is_jit_compile_false() -> bool:
        return not settings["jit_compile"]

    return {
        "set_compile_mode": set_compile_mode,
        "set_option": set_option,
        "is_jit_compile_false": is_jit_compile_false,
        "config": ModuleType("torch.npu.config", "Switches of CANN's."),
    }
