"""Other implementations of y = x W with 4-bit weights, each used only where it can be imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from accel_kernels.formats import QuantizedWeight, awq
from accel_kernels.providers import Shape, named

Work = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Built:
    """One weight in an implementation's hands. `exact`: the same numbers as the reference."""

    forward: Work
    backward: Work | None = None
    exact: bool = True


Build = Callable[[QuantizedWeight, torch.Tensor, torch.dtype], Built]
"""From the weight, the same dequantised [K, N] in the activations' dtype, and that dtype."""


def ours(provider: str) -> Build:
    """One of accel's providers."""

    def build(weight: QuantizedWeight, dense: torch.Tensor, dtype: torch.dtype) -> Built:
        implementation, shape = named(provider), Shape.of(weight)
        refusal = implementation.refuses(weight, dense.device)
        if refusal is not None:
            raise RuntimeError(refusal)
        packed = implementation.pack(weight)
        return Built(
            lambda x: implementation.forward(x, packed, shape),
            lambda dy: implementation.backward(dy, packed, shape),
        )

    return build


def blas(weight: QuantizedWeight, dense: torch.Tensor, dtype: torch.dtype) -> Built:
    """Weights of 16 bits, as `nn.Linear` holds them."""
    turned = dense.t().contiguous()
    return Built(lambda x: x @ turned.t(), lambda dy: dy @ turned)


def bitsandbytes(weight: QuantizedWeight, dense: torch.Tensor, dtype: torch.dtype) -> Built:
    """NF4 with double quantisation: other numbers, so that nothing is compared."""
    import bitsandbytes as library

    quantized, state = library.functional.quantize_4bit(
        dense.t().contiguous(), blocksize=64, quant_type="nf4", compress_statistics=True
    )

    def backward(dy: torch.Tensor) -> torch.Tensor:
        return dy @ library.functional.dequantize_4bit(quantized, state).to(dy.dtype)

    return Built(
        lambda x: library.matmul_4bit(x, quantized.t(), quant_state=state), backward, exact=False
    )


def gemlite(weight: QuantizedWeight, dense: torch.Tensor, dtype: torch.dtype) -> Built:
    """Triton kernels of the project of that name."""
    from gemlite.helper import A16W4_HQQ_INT

    layer = A16W4_HQQ_INT(device=str(dense.device), dtype=dtype).from_weights(
        weight.values().t().contiguous(),
        weight.scales.to(dtype).t().contiguous().view(-1, 1),
        weight.zeros().to(dtype).t().contiguous().view(-1, 1),
    )
    return Built(layer)


def humming(weight: QuantizedWeight, dense: torch.Tensor, dtype: torch.dtype) -> Built:
    """CUDA kernels of the project of that name."""
    from humming.layer import HummingLayer

    layer = HummingLayer(
        shape_n=weight.out_features,
        shape_k=weight.in_features,
        weight_config={
            "quant_method": "awq",
            "bits": 4,
            "group_size": weight.group_size,
            "zero_point": True,
        },
        torch_dtype=dtype,
    ).to(dense.device)
    tensors = awq.write(weight)
    tensors["scales"] = tensors["scales"].to(dtype)
    layer.load_from_tensors(tensors)
    layer.transform()
    return Built(layer)


def tinygemm(weight: QuantizedWeight, dense: torch.Tensor, dtype: torch.dtype) -> Built:
    """PyTorch's own, bfloat16 alone."""
    if dtype != torch.bfloat16:
        raise RuntimeError("takes bfloat16 alone")
    values = weight.values().t().contiguous().to(torch.int32)
    bytes_ = (values[:, ::2] << 4 | values[:, 1::2]).to(torch.uint8)
    packed = torch._convert_weight_to_int4pack(bytes_, 8)
    scales = weight.scales.to(dtype)
    shift = ((8 - weight.zeros().to(torch.float32)) * weight.scales.to(torch.float32)).to(dtype)
    pairs = torch.stack([scales, shift], dim=-1).contiguous()
    return Built(lambda x: torch._weight_int4pack_mm(x, packed, weight.group_size, pairs))


UNSIGNED_4 = 4 << 8 | 1 << 50
"""vLLM's ScalarType id of an unsigned number of 4 bits."""


def _vllm_operators(library: str | None) -> Any:
    if library is not None:
        torch.ops.load_library(library)
    else:
        import vllm._C  # noqa: F401
    return torch.ops._C


def marlin(library: str | None) -> Build:
    """Marlin, from an installed vllm or from its library of operators."""

    def build(weight: QuantizedWeight, dense: torch.Tensor, dtype: torch.dtype) -> Built:
        operators = _vllm_operators(library)
        inputs, outputs = weight.in_features, weight.out_features
        order = torch.arange(64, device=dense.device).view(8, 8).t().flatten()
        tensors = awq.write(weight)
        body = operators.awq_marlin_repack(tensors["qweight"], inputs, outputs, 4, False)
        scales = weight.scales.to(dtype).reshape(-1, 64)[:, order].reshape(-1, outputs)
        zeros = weight.zeros().reshape(-1, 64)[:, order].reshape(-1, outputs)
        interleaved = zeros.reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(-1, outputs)
        packed_zeros = _words(interleaved)
        processors = torch.cuda.get_device_properties(dense.device).multi_processor_count
        workspace = torch.zeros(processors * 4, dtype=torch.int32, device=dense.device)
        return Built(
            lambda x: operators.marlin_gemm(
                x, None, body, None, scales.contiguous(), None, None, packed_zeros, workspace,
                UNSIGNED_4, x.shape[0], outputs, inputs, False, True, False,
            )
        )  # fmt: skip

    return build


def machete(library: str | None) -> Build:
    """Machete (sm_90 alone), from where Marlin comes from."""

    def build(weight: QuantizedWeight, dense: torch.Tensor, dtype: torch.dtype) -> Built:
        operators = _vllm_operators(library)
        turned = weight.qweight.t().contiguous().t()
        body = operators.machete_prepack_B(turned, dtype, UNSIGNED_4, dtype)
        scales = weight.scales.to(dtype)
        shift = (-1.0 * scales * weight.zeros().to(dtype)).contiguous()
        group = weight.group_size
        return Built(
            lambda x: operators.machete_mm(
                x, body, UNSIGNED_4, None, scales, shift, group, None, None, None
            )
        )

    return build


def _words(values: torch.Tensor) -> torch.Tensor:
    from accel_kernels.formats import packing

    return packing.pack(values, 4, dim=1)


def known(library: str | None) -> Iterator[tuple[str, Build]]:
    """Every implementation by its name, the 16-bit one first and then ours."""
    yield "blas", blas
    yield "ours.triton", ours("triton")
    yield "ours.cuda", ours("cuda")
    yield "marlin", marlin(library)
    yield "machete", machete(library)
    yield "humming", humming
    yield "gemlite", gemlite
    yield "tinygemm", tinygemm
    yield "bitsandbytes", bitsandbytes
