"""Inside, for probe.fails: a probe is run as it is, then with a torch that computes wrongly.

Three ways of doing harm, since no single one reaches every probe: an operator's results are
changed as they leave torch's dispatcher; a Python call's results are changed (which reaches what
is read back from a compiled kernel); and the modules that a probe names cannot be imported.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from accel.probing.child import describe, find

WRONG = "operators that give wrong numbers"
WRONG_CALLS = "calls that give wrong numbers"
MISSING = "the modules it names missing"
_MOVES = ("_to_copy", "copy_", "clone", "detach", "empty", "view", "expand", "_unsafe_view")
_KEPT = ("torch", "accel", "numpy")


def sabotage(device: str, probes: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each probe its steps, and then `done`."""
    for probe in probes:
        yield from _steps(probe["function"], device, probe["arguments"])
        yield {"step": "done"}


def _steps(function: str, device: str, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """First `plain`, then each harm in turn until one of them makes the probe refuse."""
    plain = _outcome(function, device, arguments)
    yield {"step": "plain", **plain}
    if "error" in plain:
        return
    for step, harm in ((WRONG, _wrong_operators), (WRONG_CALLS, _wrong_calls)):
        with harm() as changed:
            outcome = _outcome(function, device, arguments)
        if not changed():
            continue  # nothing was computed, so nothing was harmed
        yield {"step": step, **outcome}
        if "error" in outcome:
            return
    with _missing(function, arguments) as hidden:
        outcome = _outcome(function, device, arguments)
    if hidden:
        yield {"step": f"{MISSING} ({', '.join(sorted(hidden))})", **outcome}


def _outcome(function: str, device: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        probe = find(function)
    except BaseException as error:  # noqa: BLE001 - a stranger's module may raise anything
        return {"error": describe(error), "absent": _is_absent(error, function)}
    try:
        said = probe(device, **arguments)
    except BaseException as error:  # noqa: BLE001 - whatever a probe raises is its refusal
        return {"error": describe(error)}
    if not isinstance(said, str):
        return {"error": f"returned {type(said).__name__}, not a line of text"}
    return {"said": said}


def _is_absent(error: BaseException, function: str) -> bool:
    """Whether there is no such function, or its module lacks something that is not here."""
    if isinstance(error, ModuleNotFoundError):
        return bool(error.name) and f"{function.partition(':')[0]}.".startswith(f"{error.name}.")
    return isinstance(error, (AttributeError, TypeError, ValueError))


class _Harm:
    """Multiplies by a factor that is never the same twice.

    So what is compared differs even where the right answer is computed with the same torch.
    """

    def __init__(self) -> None:
        self.count = 0
        self._factors = itertools.cycle((1.5, 0.4, 2.25, 0.7, 3.1))

    def done(self, value: Any) -> Any:
        from torch.utils._pytree import tree_map

        return tree_map(self._one, value)

    def _one(self, value: Any) -> Any:
        import torch

        if not isinstance(value, torch.Tensor) or value.dtype is torch.bool or not value.numel():
            return value
        if value.is_meta or type(value).__name__ == "FakeTensor":
            return value
        self.count += 1
        factor = next(self._factors)
        with torch.no_grad(), contextlib.suppress(RuntimeError):
            harmed = value.detach().double() * factor + factor
            if value.requires_grad or value.grad_fn is not None:
                return value * factor
            value.copy_(harmed.to(value.dtype))
        return value


@contextlib.contextmanager
def _wrong_operators() -> Iterator[Callable[[], int]]:
    """Whatever computes gives wrong numbers; what only moves or makes tensors does not."""
    from torch.utils._python_dispatch import TorchDispatchMode

    harm = _Harm()

    class Wrong(TorchDispatchMode):  # type: ignore[misc,unused-ignore]
        def __torch_dispatch__(
            self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            value = operator(*args, **(kwargs or {}))
            name = str(operator).partition(".")[2].partition(".")[0]
            return value if name in _MOVES or _is_view(operator) else harm.done(value)

    with Wrong():
        yield lambda: harm.count


def _is_view(operator: Any) -> bool:
    returns = operator._schema.returns
    return any(one.alias_info is not None and not one.alias_info.is_write for one in returns)


@contextlib.contextmanager
def _wrong_calls() -> Iterator[Callable[[], int]]:
    """What Python reads back is wrong: `.cpu()`, `.to()`, `.double()` and the like."""
    import torch
    from torch.overrides import TorchFunctionMode

    harm = _Harm()
    reading = {torch.Tensor.cpu, torch.Tensor.double, torch.Tensor.to, torch.Tensor.float}

    class Wrong(TorchFunctionMode):  # type: ignore[misc,unused-ignore]
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            value = function(*args, **(kwargs or {}))
            if function not in reading or value is args[0]:
                return value
            return harm.done(value)

    with Wrong():
        yield lambda: harm.count


class _Hidden(importlib.abc.MetaPathFinder):
    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextlib.contextmanager
def _missing(function: str, arguments: Mapping[str, Any]) -> Iterator[set[str]]:
    """The modules that stand in the probe's arguments, and what was imported for it, are gone."""
    named = {text.partition(":")[0].partition(".")[0] for text in _texts(arguments)}
    own = function.partition(":")[0].partition(".")[0]
    gone = {name for name in named if name in sys.modules} - {own, *_KEPT}
    kept = {k: m for k, m in sys.modules.items() if k.partition(".")[0] in gone}
    finder = _Hidden(gone)
    for name in kept:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        yield gone
    finally:
        sys.meta_path.remove(finder)
        sys.modules.update(kept)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
