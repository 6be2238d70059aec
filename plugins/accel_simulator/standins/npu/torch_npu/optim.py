"""torch_npu's fused optimizers, as far as transformers asks for them."""

from __future__ import annotations

import torch


class NpuFusedAdamW(torch.optim.AdamW):  # type: ignore[misc,unused-ignore]
    """torch's own AdamW: what is fused on the NPU is computed one tensor after the other here."""
