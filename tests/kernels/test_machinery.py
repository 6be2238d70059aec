"""torch's machinery around a quantised layer: compile, export, autocast, checkpointing, FSDP2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from accel_kernels import torch_int4_provider
from accel_kernels.formats import awq
from accel_kernels.layer import QuantizedLinear, Scheme
from test_formats import random_weight

needs_int4 = pytest.mark.skipif(
    torch_int4_provider.block_size() is None, reason="torch has no int4 kernel for this processor"
)
PROVIDERS = ["torch", pytest.param("torch_int4", marks=needs_int4)]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(params=PROVIDERS)
def layer(request: pytest.FixtureRequest) -> QuantizedLinear:
    """64 x 128 with a bias, served by one provider."""
    made = QuantizedLinear(64, 128, Scheme("awq", 4, 32), bias=True, dtype=torch.float32)
    for key, tensor in awq.write(random_weight(4, 64, 128, 32)).items():
        setattr(made, key, torch.nn.Parameter(tensor, requires_grad=False))
    made.bias = torch.nn.Parameter(torch.randn(128))
    made.finish([request.param, "torch"])
    assert made.provider == request.param
    return made


class Block(torch.nn.Module):
    """Something before and after the layer, for a graph to be broken at."""

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.tanh()).sigmoid()


def gradients(y: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(y.square().sum(), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_into_one_graph(layer: QuantizedLinear, dtype: torch.dtype) -> None:
    torch.compiler.reset()
    block = Block(layer)
    x = torch.randn(5, 64, dtype=dtype, requires_grad=True)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    expected, found = block(x), compiled(x)
    assert torch.allclose(found, expected)
    for one, two in zip(gradients(found, x), gradients(expected, x), strict=True):
        assert torch.allclose(one, two)
    # Another number of rows, on the other side of the kernel's limit.
    more = torch.randn(70, 64, dtype=dtype)
    assert torch.allclose(compiled(more), block(more))


def test_exported(layer: QuantizedLinear) -> None:
    block = Block(layer).eval().requires_grad_(False)
    rows = torch.export.Dim("rows", min=2, max=512)
    program = torch.export.export(
        block, (torch.randn(4, 64),), dynamic_shapes=({0: rows},), strict=False
    )
    targets = {str(node.target) for node in program.graph.nodes}
    assert "accel.quantized_linear.default" in targets
    x = torch.randn(9, 64)
    assert torch.allclose(program.module()(x), block(x))


@pytest.mark.parametrize("inner", [torch.bfloat16, torch.float16])
def test_autocast(layer: QuantizedLinear, inner: torch.dtype) -> None:
    x = torch.randn(3, 64, requires_grad=True)
    with torch.autocast("cpu", inner):
        y = layer(x)
        nested = layer(layer.dequantize(torch.float32)[:3])
    assert y.dtype == nested.dtype == inner
    (dx,) = gradients(y.float(), x)
    assert dx.dtype == torch.float32
    (right,) = gradients(layer(x), x)
    assert torch.allclose(dx, right, rtol=0.05, atol=0.05 * float(right.abs().max()))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(layer: QuantizedLinear, reentrant: bool) -> None:
    block = Block(layer)
    x = torch.randn(3, 64, requires_grad=True)
    expected = gradients(block(x), x)
    y = checkpoint(block, x, use_reentrant=reentrant)
    y.square().sum().backward()  # the reentrant kind knows backward() only
    assert x.grad is not None
    assert torch.equal(x.grad, expected[0])


def test_the_bias_learns_and_the_words_do_not(layer: QuantizedLinear) -> None:
    y = layer(torch.randn(3, 64))
    (found,) = gradients(y, layer.bias)
    assert torch.allclose(found, 2 * y.detach().sum(0), rtol=1e-4)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed")
@pytest.mark.parametrize("name", ["llama-awq", "qwen2-gptq"])
def test_fsdp2_on_two_ranks(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Adapters are sharded, words are no parameters; losses and gradients are the whole ones."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here), "ACCEL_PROBE": "0"}
    command = [sys.executable, str(here / "fsdp_child.py"), str(checkpoints[name])]
    ranks = [
        subprocess.Popen(
            [*command, str(tmp_path / "rendezvous"), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=280)[0] for rank in ranks]
    for number, (rank, text) in enumerate(zip(ranks, said, strict=True)):
        assert rank.returncode == 0, text[-3000:]
        assert f"rank {number} agrees" in text
