"""Ranks: nccl becomes the device's own backend, and device ids its own numbers."""

from __future__ import annotations

import atexit
import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from accel.resolving import Capabilities
from accel.values import Feature, Level, Note, Patch
from accel_frameworks.torch import asking, averaging
from accel_frameworks.torch.patches import instead, patch
from accel_frameworks.torch.target import KIND, Target

NCCL = "nccl"
SECONDS_TO_LET_GO = 0.2
EVERYWHERE = "gloo"
FSDP = "torch.distributed.fsdp"
C10D = "torch.distributed.distributed_c10d"

INTERFACE = "NCCL_SOCKET_IFNAME"
INTERFACE_OF = {"gloo": "GLOO_SOCKET_IFNAME", "hccl": "HCCL_SOCKET_IFNAME"}
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"
ALLOCATOR_OF = {
    "npu": "PYTORCH_NPU_ALLOC_CONF",
    "mlu": "PYTORCH_MLU_ALLOC_CONF",
    "musa": "PYTORCH_MUSA_ALLOC_CONF",
}
"""Variables with the same meaning and the same form of value."""


def environment(kind: str, backend: str, given: Mapping[str, str]) -> dict[str, str]:
    """What of CUDA's and NCCL's variables in `given` the device has under another name.

    Those that the user has set for the device are left alone.
    """
    pairs = ((INTERFACE, INTERFACE_OF.get(backend)), (ALLOCATOR, ALLOCATOR_OF.get(kind)))
    return {
        theirs: given[cudas]
        for cudas, theirs in pairs
        if theirs is not None and given.get(cudas) and not given.get(theirs)
    }


def backend_for(capabilities: Capabilities) -> str:
    """The collective backend of the device, by the name that torch.distributed has for it."""
    best = capabilities.best(Feature.COLLECTIVE)
    return best.name if best is not None and best.name != NCCL else EVERYWHERE


def renamed(backend: str, kind: str, own: str) -> str:
    """`nccl`, `cuda:nccl` or `cpu:gloo,cuda:nccl`, with the device's type and backend."""
    parts = []
    for part in backend.split(","):
        device, colon, name = part.rpartition(":")
        name = own if name.strip().lower() == NCCL else name
        device = kind if device.strip() == KIND else device
        parts.append((device.strip(), f"{device}{colon}{name}"))
    # on a CPU both halves are about the same device: the first one stays
    unique = dict(reversed(parts))
    kept = [text for device, text in parts if unique[device] == text]
    name = ",".join(dict.fromkeys(kept))
    return name.removeprefix("cpu:") if kind == "cpu" and "," not in name else name


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """Process groups, meshes, DistributedDataParallel and FullyShardedDataParallel."""
    ranks = _Ranks(target, capabilities)
    yield patch(f"{C10D}:init_process_group", ranks.init_process_group)
    yield patch(f"{C10D}:destroy_process_group", ranks.destroy_process_group)
    yield patch(f"{C10D}:new_group", ranks.with_backend)
    yield patch(f"{C10D}:_new_group_with_tag", ranks.with_backend)
    for name in ("broadcast_object_list", "send_object_list", "recv_object_list"):
        yield patch(f"{C10D}:{name}", ranks.with_device)
    yield patch(f"{C10D}:barrier", ranks.barrier)
    yield patch(f"{C10D}:is_nccl_available", ranks.is_nccl_available)
    for name, result in averaging.RESULT.items():
        yield patch(f"{C10D}:{name}", averaging.replacement(result, capabilities))
    yield patch("torch.distributed.device_mesh:init_device_mesh", ranks.with_kind)
    yield patch("torch.distributed.device_mesh:DeviceMesh.__init__", ranks.method_with_kind)
    yield patch(f"{C10D}:ProcessGroup._get_backend", ranks.anywhere)
    for name in ("PipelineStage.__init__", "build_stage"):
        yield patch(f"torch.distributed.pipelining.stage:{name}", ranks.anywhere)
    yield patch(
        "torch.nn.parallel.distributed:DistributedDataParallel.__init__", ranks.with_device_ids
    )
    if target.indexed:
        yield patch("torch.nn.parallel.data_parallel:DataParallel.__init__", ranks.data_parallel)
        yield patch("torch.nn.parallel.data_parallel:DataParallel.scatter", ranks.scatter)
    if not target.indexed:
        yield patch(f"{FSDP}._init_utils:_check_module_states_for_sync_module_states", instead(_no))
    yield patch(
        "torch.distributed.fsdp.fully_sharded_data_parallel:FullyShardedDataParallel.__init__",
        ranks.with_device_id,
    )


def _no(module_states: Any) -> None:
    """FSDP's check that what it broadcasts is on a GPU: over gloo the host's tensors are sent."""


def _let_go() -> None:
    """Let gloo's threads drop their last work, whose tensors need the interpreter's lock.

    A thread that gives up a Python tensor while the interpreter is ending aborts the process
    ("terminate called without an active exception"); one that waits for the lock while
    DistributedDataParallel's reducer, the last to hold a destroyed group, joins it under that very
    lock waits for ever (torch 2.13). Over nccl, which the script was written for, there is no such
    thread.
    """
    import gc

    gc.collect()  # groups and works that only cycles hold
    time.sleep(SECONDS_TO_LET_GO)


@functools.cache
def _let_go_at_exit() -> None:
    atexit.register(_let_go)


class _Ranks:
    """The replacements, which share the target and its backend."""

    def __init__(self, target: Target, capabilities: Capabilities) -> None:
        self.target = target
        self.capabilities = capabilities
        self.over_gloo = False

    def backend(self, name: Any) -> Any:
        if not isinstance(name, str):
            return name
        own = backend_for(self.capabilities)
        given = renamed(name, self.target.kind, own)
        if own in given and given != name and not self._registered(own):
            self._note(own)
            return renamed(name, self.target.kind, EVERYWHERE)
        return given

    def _registered(self, backend: str) -> bool:
        import torch.distributed

        known = getattr(torch.distributed.Backend, "backend_list", [])
        return backend in known or hasattr(torch.distributed.Backend, backend.upper())

    def _note(self, own: str) -> None:
        self.capabilities.note(
            Note(
                level=Level.DOWNGRADE,
                subject="init_process_group",
                message=f"{own} is not registered with torch.distributed: {EVERYWHERE} is used, "
                "through the host's memory",
                origin="accel_frameworks",
            )
        )

    def init_process_group(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init_process_group(backend: Any = None, *args: Any, **kwargs: Any) -> Any:
            if isinstance(backend, str) and NCCL in backend.lower():
                asking.rely_on(self.target)
            backend = self.backend(backend)
            named = kwargs.get("device_id")
            if named is not None:
                kwargs["device_id"] = self.target.of(named) if self.target.indexed else None
            name = str(backend or backend_for(self.capabilities)).rpartition(":")[2]
            # read by the backend when it first connects
            for variable, value in environment(self.target.kind, name, os.environ).items():
                self.target.variables.set(variable, value)
            if name == EVERYWHERE:
                self.over_gloo = True
                _let_go_at_exit()
            return original(backend, *args, **kwargs)

        return init_process_group

    def destroy_process_group(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def destroy_process_group(*args: Any, **kwargs: Any) -> Any:
            if self.over_gloo:
                _let_go()
            return original(*args, **kwargs)

        return destroy_process_group

    def with_backend(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            args = tuple(self.backend(value) for value in args)
            if "backend" in kwargs:
                kwargs["backend"] = self.backend(kwargs["backend"])
            if not self.target.indexed:
                kwargs.pop("device_id", None)
            return original(*args, **kwargs)

        return call

    def with_device(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("device") is not None:
                kwargs["device"] = self.target.of(kwargs["device"])
            return original(*args, **kwargs)

        return call

    def anywhere(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            return original(*self.target.swap(args, kwargs), **kwargs)

        return call

    def barrier(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def barrier(*args: Any, **kwargs: Any) -> Any:
            if not self.target.indexed:
                kwargs.pop("device_ids", None)
            return original(*args, **kwargs)

        return barrier

    def is_nccl_available(self, original: Callable[[], bool]) -> Callable[[], bool]:
        any_library = self.target.kind == "cpu"

        @functools.wraps(original)
        def is_nccl_available() -> bool:
            frame = asking.asker()
            if asking.knows_devices(frame, any_library=any_library):
                return original()
            return True

        return is_nccl_available

    def with_kind(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(device_type: Any, *args: Any, **kwargs: Any) -> Any:
            return original(self.target.kind_of(device_type), *args, **kwargs)

        return call

    def method_with_kind(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init(this: Any, device_type: Any, *args: Any, **kwargs: Any) -> Any:
            return original(this, self.target.kind_of(device_type), *args, **kwargs)

        return init

    def with_device_ids(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init(
            this: Any,
            module: Any,
            device_ids: Any = None,
            output_device: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            if not self.target.indexed:
                device_ids = output_device = None
            elif device_ids is not None:
                device_ids = [self.target.named(one) for one in device_ids]
            output_device = self.target.named(output_device)
            original(this, module, device_ids, output_device, *args, **kwargs)

        return init

    def data_parallel(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """One device: what splits a batch over several is compiled for CUDA alone."""

        @functools.wraps(original)
        def init(
            this: Any, module: Any, device_ids: Any = None, output_device: Any = None, dim: int = 0
        ) -> None:
            first = 0 if not device_ids else self.target.index_of(device_ids[0])
            if device_ids is None or len(device_ids) > 1:
                self._note_one_device()
            original(this, module, [first], first, dim)

        return init

    def scatter(self, original: Callable[..., Any]) -> Callable[..., Any]:
        from torch.distributed.utils import _to_kwargs

        @functools.wraps(original)
        def scatter(this: Any, inputs: Any, kwargs: Any, device_ids: Any) -> Any:
            return _to_kwargs(inputs, kwargs or {}, this.src_device_obj, False)

        return scatter

    def _note_one_device(self) -> None:
        self.capabilities.note(
            Note(
                level=Level.DOWNGRADE,
                subject="torch.nn.DataParallel",
                message=f"one {self.target.kind} is used: DataParallel splits batches by code "
                "that torch has for CUDA alone",
                remedy="torchrun --nproc_per_node=N with DistributedDataParallel",
                origin="accel_frameworks",
            )
        )

    def with_device_id(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init(this: Any, module: Any, *args: Any, **kwargs: Any) -> None:
            if kwargs.get("device_id") is not None:
                kwargs["device_id"] = self.target.of(kwargs["device_id"])
            original(this, module, *args, **kwargs)

        return init
