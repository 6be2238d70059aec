"""LoRA of peft on quantised layers: forward, merge into a plain layer, and the way back.

`created` wraps `LoraModel._create_new_module`, before any of peft's own dispatchers asks for a
package that is not there; what is not ours goes on to peft.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from accel.errors import InputError
from accel_kernels.integrations.adapting import adapted_linear, lone_adapter
from accel_kernels.layer import QuantizedLinear

logger = logging.getLogger("accel")

DENSE_STARTS = ("pissa", "olora", "corda", "loftq", "eva", "lora_ga", "mica", "orthogonal")
"""Ways to initialise an adapter that decompose or change the base weight."""


@functools.cache
def lora_class() -> type:
    """peft's LoRA layer over a QuantizedLinear; made late, because it inherits from peft's."""
    from peft.tuners.lora.layer import Linear

    # "Linear" in its name is how peft finds the layers of all-linear again.
    class QuantizedLoraLinear(Linear):  # type: ignore[misc]
        """Merging puts a plain layer in the place of the quantised one, which is kept aside."""

        def __init__(self, base_layer: nn.Module, adapter_name: str, **kwargs: Any) -> None:
            refuse_dense_starts(kwargs)
            self.aside: list[QuantizedLinear] = []  # a list, so that it is no submodule
            with warnings.catch_warnings():
                # peft knows layers by the names of their classes, and ours is not among them.
                warnings.filterwarnings("ignore", message="Unsupported layer type")
                super().__init__(base_layer, adapter_name, **kwargs)

        def update_layer(self, adapter_name: str, *args: Any, **kwargs: Any) -> None:
            refuse_dense_starts(kwargs)
            super().update_layer(adapter_name, *args, **kwargs)

        def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            name = None if args or kwargs else lone_adapter(self, x)
            if name is None:
                return super().forward(x, *args, **kwargs)
            a, b = self.lora_A[name].weight, self.lora_B[name].weight
            return adapted_linear(self.base_layer, x, a, b, self.scaling[name])

        def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
            base = self.base_layer
            if not isinstance(base, QuantizedLinear):
                super().merge(safe_merge, adapter_names)
                return
            before = len(self.merged_adapters)
            with dense(self, base):
                super().merge(safe_merge, adapter_names)
                if len(self.merged_adapters) == before:
                    return
                self.aside.append(base)
            _say_dense(base)

        def unmerge(self) -> None:
            super().unmerge()
            if self.aside and not self.merged_adapters:
                self.base_layer = self.aside.pop()

    return QuantizedLoraLinear


@contextlib.contextmanager
def dense(lora: Any, base: QuantizedLinear) -> Iterator[None]:
    """A plain base layer for the body, and beyond it if the body kept the quantised one aside."""
    lora.base_layer = base.to_linear()
    try:
        yield
    finally:
        if not lora.aside:
            lora.base_layer = base


def refuse_dense_starts(given: dict[str, Any]) -> None:
    """Raise InputError for an initialisation that needs the base weight in full precision."""
    config = given.get("config")
    start = getattr(config, "init_lora_weights", given.get("init_lora_weights"))
    if isinstance(start, str) and start.lower().startswith(DENSE_STARTS):
        raise InputError(
            f"init_lora_weights={start!r} changes the base weight, which is quantised",
            found="a QuantizedLinear",
            remedy="init_lora_weights=True, or a model that is not quantised",
        )


_said: set[tuple[str, torch.dtype]] = set()


def _say_dense(base: QuantizedLinear) -> None:
    """Once for each format: a merged model is several times as large, which nobody asked for."""
    kind = (base.scheme.format, base.dtype)
    if kind not in _said:
        _said.add(kind)
        logger.warning(
            "merging an adapter into %s layers gives plain layers in %s, several times as large; "
            "unmerge() brings the quantised ones back",
            base.scheme.format,
            str(base.dtype).removeprefix("torch."),
        )


def created(original: Callable[..., Any]) -> Any:
    """`LoraModel._create_new_module`, a static method, with quantised layers served first."""
    function: Callable[..., Any] = getattr(original, "__func__", original)

    @functools.wraps(function)
    def create(lora_config: Any, adapter_name: str, target: nn.Module, **kwargs: Any) -> Any:
        base = target.get_base_layer() if hasattr(target, "get_base_layer") else target
        if not isinstance(base, QuantizedLinear) or _is_custom(lora_config, base):
            return function(lora_config, adapter_name, target, **kwargs)
        if "config" not in _parameters():
            return lora_class()(target, adapter_name, **kwargs)
        return lora_class()(target, adapter_name, config=lora_config, **kwargs)

    return staticmethod(create)


@functools.cache
def _parameters() -> frozenset[str]:
    import inspect

    from peft.tuners.lora.layer import Linear

    return frozenset(inspect.signature(Linear.__init__).parameters)


def _is_custom(lora_config: Any, base: nn.Module) -> bool:
    """Whether the user registered a class of his own for this layer, peft's experimental door."""
    own = getattr(lora_config, "_custom_modules", None) or {}
    return isinstance(base, tuple(own))


def all_linear(original: Callable[..., Any]) -> Callable[..., Any]:
    """`_maybe_include_all_linear_layers`: "all-linear" also means the quantised ones."""

    @functools.wraps(original)
    def include(peft_config: Any, model: nn.Module) -> Any:
        asked = getattr(peft_config, "target_modules", None)
        done = original(peft_config, model)
        if isinstance(asked, str) and asked.lower() == "all-linear":
            head = getattr(model, "get_output_embeddings", lambda: None)()
            done.target_modules = set(done.target_modules) | {
                name
                for name, module in model.named_modules()
                # One that has an adapter already is found by its adapter.
                if isinstance(module, QuantizedLinear)
                and module is not head
                and not name.endswith(".base_layer")
            }
        return done

    return include


def merge_allowed(original: Callable[..., None]) -> Callable[..., None]:
    """`LoraModel._check_merge_allowed`, which refuses GPTQ: our layers can be merged into."""

    @functools.wraps(original)
    def check(self: Any, *args: Any, **kwargs: Any) -> None:
        model = self.model
        ours = any(isinstance(module, lora_class()) for module in model.modules())
        method = getattr(model, "quantization_method", None)
        if not ours or method is None:
            original(self, *args, **kwargs)
            return
        model.quantization_method = None
        try:
            original(self, *args, **kwargs)
        finally:
            model.quantization_method = method

    return check


def dequantized(original: Callable[..., Any]) -> Callable[..., Any]:
    """`dequantize_module_weight`, which DoRA asks for the base weight; ours in float32."""

    @functools.wraps(original)
    def dequantize_module_weight(module: nn.Module) -> Any:
        if isinstance(module, QuantizedLinear):
            return module.dequantize(torch.float32)
        return original(module)

    return dequantize_module_weight
