"""torch_npu's profiler is not simulated: what takes how long there cannot be told here."""

from __future__ import annotations

from typing import Any


def profile(*arguments: Any, **options: Any) -> Any:
    """Raises NotImplementedError."""
    raise NotImplementedError("torch_npu's profiler is not simulated, as speed is not")
