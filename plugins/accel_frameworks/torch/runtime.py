"""CUDA's runtime and its graphs, as far as leaving them out changes no result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from accel.resolving import Capabilities
from accel.values import Patch
from accel_frameworks import switching
from accel_frameworks.torch.backing import Backing
from accel_frameworks.torch.patches import instead, patch
from accel_frameworks.torch.refusing import refusal
from accel_frameworks.torch.target import Target

SUCCESS = 0
GRAPHED = "torch.cuda:make_graphed_callables"


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """`cudart()` and `check_error`; `make_graphed_callables`, which gives the functions back."""
    runtime = _Runtime(Backing(target, capabilities))
    yield patch("torch.cuda:cudart", instead(lambda: runtime))
    yield patch("torch.cuda:check_error", _check_error)
    yield patch("torch.autograd.profiler:emit_nvtx", instead(_EmitsNothing))
    for name in ("preferred_linalg_library", "preferred_blas_library"):
        yield patch(f"torch.backends.cuda:{name}", _prefers_none)
    yield patch("torch.backends.cuda:cuFFTPlanCacheManager.__getitem__", instead(_plans))
    if not target.indexed:
        yield patch("torch.optim.optimizer:Optimizer.__init__", _not_capturable)
    yield patch(GRAPHED, functools.partial(_graphed, target, capabilities))


class _Runtime:
    """What `torch.cuda.cudart()` returns: profilers that are not there are started and stopped."""

    cudaError = SimpleNamespace(success=SUCCESS)  # noqa: N815 - CUDA's own name

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self.cudaMemGetInfo = backing.function("mem_get_info")

    def cudaProfilerStart(self) -> int:  # noqa: N802 - CUDA's own name
        return SUCCESS

    cudaProfilerStop = cudaProfilerStart  # noqa: N815 - CUDA's own name

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise refusal(f"torch.cuda.cudart().{name}", self._backing.target)

        return refuse


def _check_error(original: Callable[[int], None]) -> Callable[[int], None]:
    @functools.wraps(original)
    def check_error(res: int) -> None:
        if int(res) != SUCCESS:
            original(res)

    return check_error


class _NoPlans:
    """cuFFT's cache of plans for a device, where it plans nothing."""

    size = max_size = 0

    def clear(self) -> None:
        """There is nothing to clear."""


def _plans(manager: Any, device: Any) -> _NoPlans:
    return _NoPlans()


def _prefers_none(original: Callable[..., Any]) -> Callable[..., Any]:
    """A choice among CUDA's libraries chooses nothing; asked, it says what torch says."""

    @functools.wraps(original)
    def prefer(backend: Any = None) -> Any:
        return original()

    return prefer


def _not_capturable(original: Callable[..., None]) -> Callable[..., None]:
    """`capturable=True` is for graphs, and torch refuses it where there are none."""

    @functools.wraps(original)
    def init(self: Any, params: Any, defaults: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if defaults.get("capturable"):
            defaults = {**defaults, "capturable": False}
        original(self, params, defaults, *args, **kwargs)

    return init


class _EmitsNothing:
    """`torch.autograd.profiler.emit_nvtx`, where nobody reads its ranges."""

    def __init__(self, enabled: bool = True, record_shapes: bool = False) -> None:
        self.enabled = enabled

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _graphed(
    target: Target, capabilities: Capabilities, original: Callable[..., Any]
) -> Callable[..., Any]:
    """The device's own where it has graphs; else the functions themselves, which do the same."""
    import torch

    own = getattr(getattr(torch, target.kind, None), "make_graphed_callables", None)
    if own is not None and target.indexed:
        return own  # type: ignore[no-any-return]

    @functools.wraps(original)
    def make_graphed_callables(callables: Any, *args: Any, **kwargs: Any) -> Any:
        switching.instead(
            capabilities,
            "torch.cuda.make_graphed_callables",
            use="the functions themselves are called",
            reason="it has no graphs; they save launch time and change no result",
        )
        return callables

    return make_graphed_callables
