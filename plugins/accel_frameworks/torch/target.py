"""What a name of CUDA's means here: the device that was chosen, in every form torch takes one."""

from __future__ import annotations

import re
from typing import Any

from accel.patching.variables import Variables

KIND = "cuda"
MOST = 64
"""Indices that are looked up; torch itself allows no more than 128 devices of a kind."""
_NAME = re.compile(r"cuda(?::(\d+))?\Z")


def names_cuda(value: Any) -> bool:
    """Whether `value` is `cuda` or `cuda:N`, as text or as a torch.device."""
    if isinstance(value, str):
        return _NAME.match(value) is not None
    return getattr(value, "type", None) == KIND and type(value).__name__ == "device"


class Target:
    """The device of type `kind` that CUDA's names are turned into.

    `table` is what the patched functions look at: text and torch.device to torch.device, for
    CUDA's names only, so that anything else costs one failed lookup. `cuda_was_started` is whether
    torch has asked for CUDA to start, which it does once in a process. `relied_on` is whether the
    script has done what it could not have done without CUDA. `variables` are those that were set in
    CUDA's stead. `indexed` is False where torch knows one device of the kind and no more.
    """

    def __init__(self, kind: str, name: str, index: int = 0) -> None:
        import torch

        self.kind = kind
        self.name = name
        self.indexed = kind not in ("cpu", "mps")
        self.device = torch.device
        self.cuda_was_started = False
        self.relied_on = False
        self.table: dict[Any, torch.device] = {}
        self.variables = Variables()
        for number in range(MOST):
            there = torch.device(f"{kind}:{number}") if self.indexed else torch.device(kind)
            self.table[f"{KIND}:{number}"] = self.table[torch.device(KIND, number)] = there
        if kind == "cpu":  # where a tensor's get_device() is -1
            self.table[f"{KIND}:-1"] = torch.device(kind)
        self.prefer(index)

    def prefer(self, index: int | None) -> None:
        """What `cuda` without a number means; None or 0 for torch's current device."""
        chosen = f"{self.kind}:{index}" if self.indexed and index else self.kind
        self.table[KIND] = self.table[self.device(KIND)] = self.device(chosen)

    def of(self, value: Any) -> Any:
        """The device that `value` means: a number counts as CUDA's; what is not CUDA's is kept."""
        if isinstance(value, (str, self.device)):
            return self.table.get(value, value)
        if isinstance(value, int) and not isinstance(value, bool):
            return self.table.get(f"{KIND}:{value}", value)
        return value

    def named(self, value: Any) -> Any:
        """As `of`, but numbers are left alone."""
        return self.table.get(value, value) if isinstance(value, (str, self.device)) else value

    def kind_of(self, value: Any) -> Any:
        """The device type that `value` means, for parameters that take one as text."""
        return self.kind if names_cuda(value) else value

    def index_of(self, value: Any) -> int:
        """The number in `value` (device, text, number, None), 0 where there is none."""
        if isinstance(value, int):
            return value
        if isinstance(value, str):
            value = self.device(value)
        index = getattr(value, "index", None)
        return 0 if index is None else int(index)

    def swap(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """`args` with CUDA's names replaced; `kwargs` are changed in place."""
        for name, value in kwargs.items():
            if isinstance(value, (str, self.device)):
                kwargs[name] = self.table.get(value, value)
        return tuple(map(self.named, args))
