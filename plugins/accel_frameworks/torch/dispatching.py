"""torch's dispatcher: making a tensor on CUDA makes it on the device that is there.

`torch.zeros(3, device="cuda")`, and what TorchScript, C++ code or a function that somebody kept
asks for, ends at a handful of operators that allocate. A kernel of ours stands at CUDA's place in
the dispatcher for those, through `torch.library`, and is reached only where CUDA was named: nothing
else is any slower. Operators with tensors as arguments never come here, because no tensor is on
CUDA.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from accel_frameworks.torch.target import Target

ALLOCATING = {
    "CUDA": (
        "empty.memory_format",
        "empty_strided",
        "tril_indices",
        "triu_indices",
    ),
    "QuantizedCUDA": (
        "_empty_affine_quantized",
        "_empty_per_channel_affine_quantized",
        "empty_quantized",
    ),
    "SparseCUDA": ("empty.memory_format", "_sparse_coo_tensor_with_dims"),
    "SparseCsrCUDA": ("empty.memory_format",),
}
"""Operators that take a device and no tensor of that device, by CUDA's dispatch keys."""


class Kernels:
    """The kernels in the dispatcher, once `register` was called and until `remove`."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._libraries: list[Any] = []

    def register(self) -> None:
        """Stand in for CUDA. `remove` takes all of it back."""
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a torch built with CUDA has kernels of its own there
            for key, names in ALLOCATING.items():
                library = torch.library.Library("aten", "IMPL", key)
                self._libraries.append(library)
                for name in names:
                    operator = _operator(name)
                    if operator is not None:
                        library.impl(name, _elsewhere(operator, self._target))

    def remove(self) -> None:
        """Give CUDA's place back. Twice is harmless."""
        while self._libraries:
            self._libraries.pop()._destroy()


def _operator(name: str) -> Any:
    import torch

    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)


def _elsewhere(operator: Any, target: Target) -> Callable[..., Any]:
    def allocate(*args: Any, **kwargs: Any) -> Any:
        kwargs["device"] = target.of(kwargs.get("device") or "cuda")
        if not target.indexed:
            kwargs.pop("pin_memory", None)
        return operator(*args, **kwargs)

    return allocate
