"""The implementation in CUDA C++, for NVIDIA GPUs from Turing (sm_75) on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from accel.errors import AccelError
from accel_kernels.cuda_provider import dense, hopper, layout, nvrtc, pieces, planning
from accel_kernels.cuda_provider.decoding import decode
from accel_kernels.formats import QuantizedWeight
from accel_kernels.providers import Provider, Shape, register

OLDEST = (7, 5)
FIRST_WITH_BF16 = (8, 0)
BITS = (4, 8)


class CudaProvider(Provider):
    """Streams packed weights through tensor cores for few rows, dequantises slabs for many."""

    name: ClassVar[str] = "cuda"
    probed_sizes: ClassVar[tuple[tuple[int, int], ...]] = ((512, 256), (1024, 4608))

    def refuses(self, weight: QuantizedWeight, device: torch.device) -> str | None:
        """The format first, then the device, then what is installed; nothing is compiled yet."""
        return refuses_weight(weight) or _refuses_device(device)

    def pack(self, weight: QuantizedWeight) -> list[torch.Tensor]:
        """Words in the order of tensor-core fragments; see layout.py."""
        return layout.pack(weight)

    def unpack(self, packed: Sequence[torch.Tensor], shape: Shape) -> QuantizedWeight:
        """The weight that was packed, bit for bit."""
        return layout.unpack(packed, shape)

    def forward(
        self, x: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape
    ) -> torch.Tensor:
        """x [M, K] times W [K, N]; weights are not rounded where M is at most FEW_ROWS."""
        if x.shape[0] == 0:
            return x.new_empty(0, shape.out_features)
        ordered = x if len(packed) < 4 else x.index_select(1, packed[3])
        ordered = _aligned(ordered)
        if hopper.serves(x, packed[2], shape):
            return hopper.multiply(ordered, packed, shape)
        if x.shape[0] > planning.FEW_ROWS:
            return dense.forward(ordered, packed, shape)
        if x.dtype == torch.float16 or (x.dtype == torch.bfloat16 and _has_bf16(x.device)):
            return decode(ordered, packed, shape)
        parts, exponent = pieces.split(ordered)
        return pieces.join(decode(parts, packed, shape, torch.float32), exponent, x.dtype)

    def backward(
        self, dy: torch.Tensor, packed: Sequence[torch.Tensor], shape: Shape
    ) -> torch.Tensor:
        """dy [M, N] times W transposed, W rounded to the dtype of dy."""
        if dy.shape[0] == 0:
            return dy.new_empty(0, shape.in_features)
        if hopper.serves(dy, packed[2], shape, backward=True):
            dx = hopper.multiply(_aligned(dy), packed, shape, backward=True)
        else:
            dx = dense.backward(dy, packed, shape)
        return dx if len(packed) < 5 else dx.index_select(1, packed[4])

    def dequantize(
        self, packed: Sequence[torch.Tensor], shape: Shape, dtype: torch.dtype
    ) -> torch.Tensor:
        """W as [K, N] in `dtype`: a view of [N, K], which is what nn.Linear keeps."""
        made = dtype if dtype in planning.SCALE_KINDS else torch.float32
        whole = torch.empty(
            shape.out_features, shape.in_features, dtype=made, device=packed[0].device
        )
        dense.write(whole, packed, shape)
        ordered = whole if len(packed) < 5 else whole.index_select(1, packed[4])
        return ordered.to(dtype).t()


def refuses_weight(weight: QuantizedWeight) -> str | None:
    """Why the kernels cannot take this format, or None."""
    if weight.bits not in BITS:
        return f"has kernels for 4 and 8 bits, not {weight.bits}"
    whole = weight.group_size >= weight.in_features
    if not whole and weight.group_size % 32:
        return f"group_size must be a multiple of 32 or all of K, not {weight.group_size}"
    if weight.in_features % 8:
        return f"in_features must be a multiple of 8, not {weight.in_features}"
    if weight.scales.dtype not in planning.SCALE_KINDS:
        return f"scales must be fp16, bf16 or fp32, not {weight.scales.dtype}"
    if not layout.orderly(weight):
        return "g_idx must give every group group_size input features"
    return None


def _refuses_device(device: torch.device) -> str | None:
    if device.type != "cuda" or getattr(torch.version, "hip", None):
        return f"needs an NVIDIA GPU, not {device}"
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return f"needs sm_75 or newer, not sm_{capability[0]}{capability[1]}"
    try:
        nvrtc.target(capability, nvrtc.load().architectures())
    except AccelError as error:
        return " ".join(str(error).split())
    return None


def _has_bf16(device: torch.device) -> bool:
    return bool(torch.cuda.get_device_capability(device) >= FIRST_WITH_BF16)


def _aligned(x: torch.Tensor) -> torch.Tensor:
    """x where 16 bytes can be read at a time; a view may start anywhere."""
    return x if x.data_ptr() % 16 == 0 and x.is_contiguous() else x.clone().contiguous()


register(CudaProvider())
