"""torch.compile and torch.jit: what they compile means the device that is there as well."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any

from accel.patching import slots
from accel.resolving import Capabilities
from accel.values import Patch
from accel_frameworks.torch import asking
from accel_frameworks.torch.patches import REASON, patch
from accel_frameworks.torch.target import Target, names_cuda


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """Dynamo writes the device into its graph; TorchScript keeps it as a constant."""
    yield patch(
        "torch._dynamo.output_graph:SubgraphTracer.create_proxy",
        lambda original: _create_proxy(original, target),
    )
    yield patch("torch._dynamo.trace_rules:get_torch_obj_rule_map", _of_originals)
    yield patch(
        "torch._dynamo.variables.torch:TorchInGraphFunctionVariable._get_handlers", _of_originals
    )
    yield Patch(target="torch._dynamo.variables.torch", reason=REASON, seam=_foldable_originals)
    yield patch("torch.jit._builtins:_find_builtin", _operator_of)
    for name in ("custom_op", "register_kernel"):
        yield patch(f"torch.library:{name}", functools.partial(_kernels_for, target))
    yield patch(
        "torch._library.custom_ops:CustomOpDef.register_kernel",
        functools.partial(_kernels_for, target),
    )
    yield patch("torch.jit:script", lambda original: _scripted(_in_callers_scope(original), target))
    yield patch("torch.jit:load", lambda original: _scripted(original, target))


def _create_proxy(original: Callable[..., Any], redirection: Target) -> Callable[..., Any]:
    """A graph that allocates names the device; the compilers below generate code for that name."""

    @functools.wraps(original)
    def create_proxy(
        self: Any, kind: Any, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any
    ) -> Any:
        if kwargs and names_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": redirection.of(kwargs["device"])}
        return original(self, kind, target, args, kwargs, *rest, **more)

    return create_proxy


# Dynamo knows torch's functions by identity too. It is imported by the first optimizer, and then
# finds what stands in for them: it is to know the originals, to which the stand-ins lead.


def _doors() -> dict[Any, Any]:
    """What stands in for torch's functions, and the original of each."""
    import torch

    found = {}
    for module in (torch, torch.cuda, torch.random):
        for value in list(vars(module).values()):
            if isinstance(value, FunctionType) and _is_door(value):
                found[value] = value.__wrapped__  # type: ignore[attr-defined]
    return found


def _of_originals(original: Callable[[], dict[Any, Any]]) -> Callable[[], dict[Any, Any]]:
    """A table by function, made once and kept: after that, one comparison."""
    done: list[Any] = []

    @functools.wraps(original)
    def table() -> dict[Any, Any]:
        rules = original()
        if not (done and done[0] is rules):
            done[:] = [rules]
            for door, behind in _doors().items():
                if door in rules:
                    rules[behind] = rules.pop(door)
        return rules

    return table


def _foldable_originals(module: Any) -> Callable[[], None]:
    doors = _doors()
    for value in list(vars(module).values()):
        if isinstance(value, dict):
            for door in [key for key in value if _hashed(key) in doors]:
                value[doors[door]] = value.pop(door)
        elif isinstance(value, list):
            value[:] = [doors.get(_hashed(one), one) for one in value]

    def undo() -> None:
        """Nothing: what is there are the originals."""

    return undo


def _hashed(value: Any) -> Any:
    return value if isinstance(value, FunctionType) else None


def _operator_of(original: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """TorchScript knows torch's functions by identity: what stands in for one is that operator."""

    @functools.wraps(original)
    def find(fn: Any) -> str | None:
        found = original(fn)
        if found is None and isinstance(fn, FunctionType) and _is_door(fn):
            return original(fn.__wrapped__)  # type: ignore[attr-defined]
        return found

    return find


def _is_door(function: FunctionType) -> bool:
    return function.__code__.co_filename == slots.__file__


def _kernels_for(target: Target, original: Callable[..., Any]) -> Callable[..., Any]:
    """A script's own operator for "cuda" serves the device; a library's is compiled for CUDA."""

    @functools.wraps(original)
    def register(*args: Any, **kwargs: Any) -> Any:
        if not asking.knows_devices(asking.asker(), any_library=True):
            args = tuple(map(moved, args))
            if "device_types" in kwargs:
                kwargs["device_types"] = moved(kwargs["device_types"])
        return original(*args, **kwargs)

    def moved(value: Any) -> Any:
        if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
            return list(dict.fromkeys(map(target.kind_of, value)))
        return target.kind_of(value)

    return register


def _in_callers_scope(original: Callable[..., Any]) -> Callable[..., Any]:
    """torch looks the names of a class up so many frames above: ours are not to be counted."""

    @functools.wraps(original)
    def script(*args: Any, **kwargs: Any) -> Any:
        kwargs["_frames_up"] = kwargs.get("_frames_up", 0) + asking.own_frames()
        return original(*args, **kwargs)

    return script


def _scripted(original: Callable[..., Any], target: Target) -> Callable[..., Any]:
    @functools.wraps(original)
    def script(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        for graph in _graphs(made):
            _rename(graph, target)
        return made

    return script


def _graphs(made: Any) -> Iterator[Any]:
    """The graphs of a script function, or of every method of a script module and its children."""
    import torch

    if isinstance(made, torch.jit.ScriptFunction):
        yield made.graph
    elif isinstance(made, torch.jit.ScriptModule):
        for module in made.modules():
            own = getattr(module, "_c", None)
            if isinstance(own, torch._C.ScriptModule):
                yield from (own._get_method(name).graph for name in own._method_names())


def _rename(block: Any, target: Target) -> None:
    for node in block.nodes():
        for inner in node.blocks():
            _rename(inner, target)
        if node.kind() != "prim::Constant" or "value" not in node.attributeNames():
            continue
        if node.kindOf("value") == "s" and names_cuda(node.s("value")):
            node.s_("value", str(target.of(node.s("value"))))
