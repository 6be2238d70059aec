"""torch.compile and torch.jit: what they compile means the device that is there as well."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from accel.resolving import Capabilities
from accel.values import Patch
from accel_frameworks.torch import amp, tensors
from accel_frameworks.torch.patches import REASON, patch
from accel_frameworks.torch.target import Target, names_cuda


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """Dynamo writes the device into its graph; TorchScript keeps it as a constant."""
    yield patch(
        "torch._dynamo.output_graph:SubgraphTracer.create_proxy",
        lambda original: _create_proxy(original, target),
    )
    yield Patch(target="torch.jit._builtins", reason=REASON, seam=_as_operators)
    for name in ("script", "load"):
        yield patch(f"torch.jit:{name}", functools.partial(_scripted, target))


def _create_proxy(original: Callable[..., Any], target: Target) -> Callable[..., Any]:
    """A graph that allocates names the device; the compilers below generate code for that name."""

    @functools.wraps(original)
    def create_proxy(
        self: Any, kind: str, called: Any, args: Any, kwargs: Any, *rest: Any, **more: Any
    ) -> Any:
        if kwargs and names_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": target.of(kwargs["device"])}
        return original(self, kind, called, args, kwargs, *rest, **more)

    return create_proxy


def _as_operators(module: Any) -> Callable[[], None]:
    """TorchScript knows torch's functions by identity: tell it what stands in for them."""
    import torch

    table = module._get_builtin_table()
    names = (*tensors.FROM_DATA, *tensors.PINNING, *amp.STATE, *amp.OLD_STATE)
    added = []
    for name in names:
        function = getattr(torch, name, None)
        if function is not None and id(function) not in table:
            table[id(function)] = f"aten::{name}"
            added.append(id(function))

    def undo() -> None:
        for key in added:
            table.pop(key, None)

    return undo


def _scripted(target: Target, original: Callable[..., Any]) -> Callable[..., Any]:
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
            for method in own._get_methods() if own is not None else ():
                yield method.graph


def _rename(block: Any, target: Target) -> None:
    for node in block.nodes():
        for inner in node.blocks():
            _rename(inner, target)
        if node.kind() != "prim::Constant" or "value" not in node.attributeNames():
            continue
        if node.kindOf("value") == "s" and names_cuda(node.s("value")):
            node.s_("value", str(target.of(node.s("value"))))
