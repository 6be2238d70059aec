"""Tensors, modules and the functions that make them: every place where a device is a parameter."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from accel.resolving import Capabilities
from accel.values import Patch
from accel_frameworks.torch import asking
from accel_frameworks.torch.patches import instead, patch
from accel_frameworks.torch.target import Target

FROM_DATA = (
    "as_tensor",
    "asarray",
    "sparse_bsc_tensor",
    "sparse_bsr_tensor",
    "sparse_compressed_tensor",
    "sparse_coo_tensor",
    "sparse_csc_tensor",
    "sparse_csr_tensor",
    "tensor",
)
"""These look at the device before they come to the dispatcher, so it is replaced before them."""

FACTORIES = (
    "arange",
    "empty",
    "empty_like",
    "empty_strided",
    "eye",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "rand",
    "randint",
    "randn",
    "randperm",
    "range",
    "zeros",
    "zeros_like",
)
"""The dispatcher would do for these; but fake tensors and graphs keep the device they were told,
and `pin_memory` is an error where no accelerator pins memory."""


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """Tensor, Storage, Module, DeviceContext, tensor types and the functions above."""
    with_device = functools.partial(_with_device, target)
    yield patch("torch:Tensor.to", lambda original: _to(original, target))
    yield patch("torch:Tensor.cuda", lambda original: _cuda(original, target))
    yield patch("torch:Tensor.new_tensor", with_device)
    yield patch("torch:Tensor.is_cuda", lambda original: _is_cuda(original, target))
    packed = "torch.nn.utils.rnn:PackedSequence"
    yield patch(f"{packed}.cuda", lambda original: _cuda(original, target))
    yield patch(f"{packed}.is_cuda", lambda original: _packed_is_cuda(original, target))
    yield patch("torch:Tensor.type", lambda original: _type(original, target))
    yield patch("torch.nn:Module.to", lambda original: _to(original, target))
    yield patch("torch.nn:Module.to_empty", with_device)
    yield patch("torch.utils._device:DeviceContext.__init__", with_device)
    yield patch("torch:set_default_tensor_type", lambda original: _default_type(original, target))
    for name in FROM_DATA:
        yield patch(f"torch:{name}", with_device)
    for name in FACTORIES:
        yield patch(f"torch:{name}", functools.partial(_made, target))
    if not target.indexed:
        yield patch("torch:Tensor.pin_memory", instead(_itself))
        yield patch("torch:Tensor.record_stream", instead(_ignores_stream))
    yield from _tensor_types(target)


def _to(original: Callable[..., Any], target: Target) -> Callable[..., Any]:
    import torch

    table, device, dtype = target.table, torch.device, torch.dtype

    @functools.wraps(original)
    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args:
            first = args[0]
            kind = type(first)
            if kind is str or kind is device:
                there = table.get(first)
                if there is not None:
                    args = (there, *args[1:])
            elif kind is not dtype and isinstance(first, (int, str)):
                args = (target.of(first), *args[1:])
        if kwargs:
            named = kwargs.get("device")
            if named is not None:
                kwargs["device"] = target.of(named)
        return original(self, *args, **kwargs)

    return to


def _cuda(original: Callable[..., Any], target: Target) -> Callable[..., Any]:
    @functools.wraps(original)
    def cuda(
        self: Any, device: Any = None, non_blocking: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        there = target.of("cuda" if device is None else device)
        return self.to(there, *args, non_blocking=non_blocking, **kwargs)

    return cuda


def _with_device(target: Target, original: Callable[..., Any]) -> Callable[..., Any]:
    """`original` with CUDA's names replaced wherever they are given as `device`, or by position."""
    import torch

    table, device = target.table, torch.device
    pins = target.indexed

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            named = kwargs.get("device")
            if named is not None:
                kwargs["device"] = target.of(named)
            if not pins and "pin_memory" in kwargs:
                del kwargs["pin_memory"]
        for value in args:
            kind = type(value)
            if (kind is str or kind is device) and value in table:
                return original(*map(target.named, args), **kwargs)
        return original(*args, **kwargs)

    return call


def _made(target: Target, original: Callable[..., Any]) -> Callable[..., Any]:
    """`original`, whose device can only be given by its name, on the device that is there."""
    pins = target.indexed

    @functools.wraps(original)
    def make(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            named = kwargs.get("device")
            if named is not None:
                kwargs["device"] = target.of(named)
            if not pins and "pin_memory" in kwargs:
                del kwargs["pin_memory"]
        return original(*args, **kwargs)

    return make


def _itself(self: Any, device: Any = None) -> Any:
    """`pin_memory` where the memory is the device's own: there is nothing to be copied from."""
    return self


def _ignores_stream(self: Any, stream: Any) -> None:
    """`record_stream` where work is done in the order in which it is given."""


def _is_cuda(original: Any, target: Target) -> property:
    read = original.__get__
    kind = target.kind

    def is_cuda(self: Any) -> bool:
        return bool(read(self)) or (self.device.type == kind and asking.answer_is_cuda(kind))

    return property(is_cuda, doc=original.__doc__)


def _packed_is_cuda(original: Any, target: Target) -> property:
    kind = target.kind

    def is_cuda(self: Any) -> bool:
        there = self.data.device.type == kind
        return bool(original.__get__(self)) or (there and asking.answer_is_cuda(kind))

    return property(is_cuda, doc=original.__doc__)


# torch.cuda.FloatTensor and its kind ----------------------------------------------------------

TYPES = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")


def _tensor_types(target: Target) -> Iterable[Patch]:
    import torch

    for name in TYPES:
        made = _tensor_type(f"{name}Tensor", getattr(torch, f"{name}Tensor").dtype, target)
        yield patch(f"torch.cuda:{name}Tensor", instead(made))


def _tensor_type(name: str, kept: Any, target: Target) -> Any:
    """A stand-in for `torch.cuda.FloatTensor`: makes tensors, and knows its own."""
    import torch

    class Meta(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            mine = isinstance(instance, torch.Tensor) and instance.dtype is kept
            return mine and instance.device.type == target.kind

    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        host = getattr(torch, name)(*args)
        return host.to(target.of(kwargs.get("device") or "cuda"))

    attributes = {"__new__": new, "__module__": "torch.cuda", "dtype": kept, "is_cuda": True}
    return Meta(name, (), attributes)


def _dtype_of_type(value: Any) -> Any:
    """The dtype of `torch.cuda.XTensor`, given as the type or by name; None for other things."""
    import torch

    module, name = "", ""
    if isinstance(value, str):
        module, _, name = value.rpartition(".")
    elif isinstance(value, type):
        module, name = value.__module__, value.__name__
    if module != "torch.cuda" or not name.endswith("Tensor"):
        return None
    return getattr(getattr(torch, name, None), "dtype", None)


def _type(original: Callable[..., Any], target: Target) -> Callable[..., Any]:
    @functools.wraps(original)
    def type_(self: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        if dtype is None:
            return original(self, *args, **kwargs)
        kept = _dtype_of_type(dtype)
        if kept is None:
            return original(self, dtype, *args, **kwargs)
        return self.to(target.of("cuda"), kept, *args, **kwargs)

    return type_


def _default_type(original: Callable[..., Any], target: Target) -> Callable[..., Any]:
    moved = False

    @functools.wraps(original)
    def set_default_tensor_type(t: Any) -> None:
        import torch

        nonlocal moved
        kept = _dtype_of_type(t)
        if kept is None:
            if moved:  # a type of the host's own takes the default back there
                torch.set_default_device(None)
                moved = False
            original(t)
            return
        torch.set_default_dtype(kept)
        if target.kind != "cpu":
            torch.set_default_device(target.of("cuda"))
            moved = True

    return set_default_tensor_type
