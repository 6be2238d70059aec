"""hccl, nccl, cncl, mccl, xccl: between processes, over gloo, with the limits of the real ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from accel_simulator.cards import Card, Library, facts
from accel_simulator.changes import Changes

BUILT_IN = {"nccl": "ProcessGroupNCCL", "xccl": "ProcessGroupXCCL"}
"""Backends that torch makes by a class of its own, which a build without them leaves out."""

NCCL_TIMEOUT = timedelta(minutes=10)
"""torch's own, in the builds that have NCCL: c10d's kProcessGroupNCCLDefaultTimeout."""

Maker = Callable[[Any, int, int, Any], Any]

_made: dict[str, Maker] = {}
"""By name, what makes a backend's process group now; torch registers a name for good."""


def register(card: Card, extension: Any, changes: Changes) -> None:
    """Make the card's collective backends known to torch.distributed."""
    import torch.distributed as dist

    if not dist.is_available():
        return
    extension.register_timer(card.kind)
    if card.kind == "cuda":
        _gloo(card, extension, changes)
    elif card.kind == "xpu":
        extension.route_collectives()
    for library in card.libraries:
        maker = _maker(card, library, extension)
        if library.name in BUILT_IN:
            _built_in(library.name, maker, changes)
            continue
        if library.name.upper() not in dist.Backend._plugins:
            dist.Backend.register_backend(library.name, _current(library.name), devices=[card.kind])
        _made[library.name] = maker
        if "gather" in library.missing:
            _gather_by_all_gather(card, changes)
        changes.set(dist, f"is_{library.name}_available", lambda: True)


def _gather_by_all_gather(card: Card, changes: Changes) -> None:
    """torch_npu puts an all_gather at `torch.distributed.gather`, which its HCCL has not."""
    import torch
    import torch.distributed as dist
    import torch.distributed.distributed_c10d as c10d

    original = c10d.gather

    @functools.wraps(original)
    def gather(
        tensor: Any,
        gather_list: Any = None,
        dst: int | None = None,
        group: Any = None,
        async_op: bool = False,
        group_dst: int | None = None,
    ) -> Any:
        if tensor.device.type != card.kind:
            return original(tensor, gather_list, dst, group, async_op, group_dst)
        if dist.get_rank(group) < 0 or gather_list:
            parts = gather_list
        else:
            parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
        return dist.all_gather(parts, tensor, group, async_op)

    for owner in (c10d, dist):
        changes.set(owner, "gather", gather)


def _current(name: str) -> Maker:
    """A function that stays registered, over a maker that changes with the simulation."""

    def make(store: Any, rank: int, size: int, timeout: Any) -> Any:
        return _made[name](store, rank, size, timeout)

    return make


def _maker(card: Card, library: Library, extension: Any) -> Maker:
    import torch
    import torch.distributed as dist

    limits = {
        "refused": [getattr(torch, name) for name in library.dtypes if hasattr(torch, name)],
        "reductions_only": library.reductions_only,
        "dtype_message": library.dtype_message,
        "missing": set(library.missing),
        "missing_message": library.missing_message,
    }

    def make(store: Any, rank: int, size: int, timeout: Any) -> Any:
        gloo = dist.ProcessGroupGloo(store, rank, size, timeout)
        return extension.collectives(library.name, card.kind, gloo, limits, timeout)

    return make


def _gloo(card: Card, extension: Any, changes: Changes) -> None:
    """gloo with the device's tensors, which it reduces on the host.

    torch leaves that part of gloo out of a build without CUDA, and finds a null pointer instead.
    """
    import torch
    import torch.distributed as dist

    known = facts()["gloo"]
    original = dist.ProcessGroup._register_backend
    limits = {
        "refused": [],
        "reductions_only": True,
        "dtype_message": "",
        "missing": set(known["missing"]),
        "missing_message": known["missing_message"],
    }

    def register_backend(self: Any, device: Any, kind: Any, backend: Any = None) -> None:
        if device.type == card.kind and isinstance(backend, dist.ProcessGroupGloo):
            # torch keeps one backend for a type: gloo itself is the host's
            original(self, torch.device("cpu"), kind, backend)
            timeout = backend.options._timeout
            backend = extension.collectives("gloo", card.kind, backend, limits, timeout)
            kind = dist.ProcessGroup.BackendType.CUSTOM
        original(self, device, kind, backend)

    changes.set(dist.ProcessGroup, "_register_backend", register_backend)


def _built_in(name: str, maker: Maker, changes: Changes) -> None:
    """Give torch the class that it would make the backend by."""
    import torch.distributed as dist
    import torch.distributed.distributed_c10d as c10d
    from torch._C import _distributed_c10d as _C  # noqa: N812

    class Options(SimpleNamespace):
        """What torch sets before it makes a group; only the time limit matters here."""

        def __init__(self, is_high_priority_stream: bool = False) -> None:
            super().__init__(
                is_high_priority_stream=is_high_priority_stream,
                _timeout=c10d.default_pg_timeout,
                config=SimpleNamespace(),
            )

    class Made(type):
        """A group is made by the simulator's extension, and taken for one of this class."""

        def __call__(cls, store: Any, rank: int, size: int, options: Any = None) -> Any:
            timeout = getattr(options, "_timeout", None) or c10d.default_pg_timeout
            return maker(store, rank, size, timeout)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, _C.Backend) and instance.name() == name

    group = Made(BUILT_IN[name], (), {"Options": Options})
    for owner in (c10d, dist):
        changes.set(owner, BUILT_IN[name], group)
    changes.set(c10d, f"_{name.upper()}_AVAILABLE", True)
    if name == "nccl":
        changes.set(c10d, "default_pg_nccl_timeout", NCCL_TIMEOUT)
