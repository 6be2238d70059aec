"""autoawq: its kernels take float16 scales only, whatever dtype the model was loaded in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from accel.hookspecs import hookimpl
from accel.values import Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any


@hookimpl
def accel_patches() -> Iterable[Patch]:
    """On every device: the kernels are the same."""
    return [
        Patch(
            target="awq.modules.linear.gemm:WQLinear_GEMM.forward",
            reason="a model loaded in bfloat16 has bfloat16 scales, which the float16 kernels "
            "cannot multiply with",
            replace=_with_half_scales,
            distribution="autoawq",
            versions=">=0.2.6,<0.3",
            parameters=("self", "x"),
            upstream="https://github.com/xorbitsai/inference/issues/3971",
            until="autoawq, which is no longer maintained, is no longer used",
            symptom="AssertionError: Both operands must be same dtype. Got fp16 and bf16",
        )
    ]


def _with_half_scales(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def forward(self: Any, x: Any) -> Any:
        import torch

        if self.scales.dtype is not torch.float16:
            # they were float16 in the checkpoint: nothing is lost
            self.scales = self.scales.to(torch.float16)
        return original(self, x).to(x.dtype)

    return forward
