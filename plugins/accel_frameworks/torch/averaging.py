"""`ReduceOp.AVG`, which NCCL has, over a backend that lacks it: a sum, divided."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from accel.resolving import Capabilities
from accel.values import Feature

RESULT: Mapping[str, int] = {
    "all_reduce": 0,
    "reduce": 0,
    "reduce_scatter": 0,
    "reduce_scatter_single": 0,
    "reduce_scatter_tensor": 0,
}
"""The collectives, and which of their arguments is the result."""
PARAMETERS = {
    "all_reduce": ("tensor", "op", "group", "async_op"),
    "reduce": ("tensor", "dst", "op", "group", "async_op"),
    "reduce_scatter": ("output", "input_list", "op", "group", "async_op"),
    "reduce_scatter_single": ("output", "input", "op", "group", "async_op"),
    "reduce_scatter_tensor": ("output", "input", "op", "group", "async_op"),
}


def lacks_average(backend: str, capabilities: Capabilities) -> bool:
    """Whether `backend` cannot average: gloo, or one whose limits say so."""
    if backend.rpartition(":")[2] == "gloo":
        return True
    found = capabilities.find(Feature.COLLECTIVE, backend)
    return found is not None and "AVG" in found.impl.limits.get("missing_ops", ())


class Averaged:
    """A collective that is under way; its result is divided once it is there."""

    def __init__(self, work: Any, tensor: Any, world: int) -> None:
        self._work = work
        self._tensor = tensor
        self._world: int | None = world

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        done = self._work.wait(*args, **kwargs)
        if self._world is not None:
            self._tensor.div_(self._world)
            self._world = None
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def replacement(
    result: int, capabilities: Capabilities
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A `replace` for a collective whose argument number `result` is what comes out."""

    def replace(original: Callable[..., Any]) -> Callable[..., Any]:
        import torch.distributed as dist

        average = dist.ReduceOp.AVG
        names = PARAMETERS[original.__name__]

        @functools.wraps(original)
        def collective(*args: Any, **kwargs: Any) -> Any:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            if given.get("op") != average:
                return original(*args, **kwargs)
            group = given.get("group")
            if dist.get_rank(group) < 0:  # not of this group: torch says so, and does nothing
                return original(*args, **kwargs)
            if not lacks_average(str(dist.get_backend(group)), capabilities):
                return original(*args, **kwargs)
            work = original(**{**given, "op": dist.ReduceOp.SUM})
            tensor, world = given[names[result]], dist.get_world_size(group)
            if work is None:
                tensor.div_(world)
                return None
            return Averaged(work, tensor, world)

        return collective

    return replace
