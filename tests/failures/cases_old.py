"""Old transformers, and packages that nobody maintains any more."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from failure import SIMULATED, Having, case


@case("P14", "autoawq in bfloat16", "Both operands must be same dtype", environment="autoawq")
def bfloat16_scales() -> None:
    """autoawq's own Triton kernel, interpreted."""
    import torch
    from awq.modules.linear.gemm import WQLinear_GEMM

    torch.manual_seed(0)
    layer = WQLinear_GEMM(4, 32, 64, 64, bias=False, dev="cpu")
    layer.qweight = torch.randint(0, 2**31 - 1, layer.qweight.shape, dtype=torch.int32)
    layer.scales = torch.rand(layer.scales.shape, dtype=torch.bfloat16)
    here = mock.patch("awq.modules.triton.gemm.get_same_device_cm", contextlib.nullcontext)
    with here:  # it would ask CUDA for the tensor's card, and the interpreter has none
        output = layer(torch.randn(1, 2, 64, dtype=torch.bfloat16))
    assert output.dtype is torch.bfloat16
    assert bool(output.isfinite().all())


@case(
    "P15",
    "a device_map with the CPU in it",
    "You are attempting to load an AWQ model with a device_map that contains a CPU or disk device",
    environment="transformers-4.57",
    how=SIMULATED,
    having=Having(kind="cuda"),
)
def device_map() -> None:
    from transformers.quantizers.quantizer_awq import AwqQuantizer
    from transformers.utils.quantization_config import AwqConfig

    quantiser = AwqQuantizer(AwqConfig(), pre_quantized=True)
    with mock.patch("torch.cuda.is_available", return_value=True):
        quantiser.validate_environment(device_map={"model": 0, "lm_head": "cpu"})


@case(
    "P15",
    "a name that autoawq imports",
    "cannot import name 'PytorchGELUTanh'",
    environment="transformers-4.57",
)
def gelu_name() -> None:
    """What `awq.quantize.scale` does on its line 12."""
    namespace: dict[str, Any] = {}
    line = "from transformers.activations import NewGELUActivation, PytorchGELUTanh, GELUActivation"
    exec(line, namespace)
    assert namespace["PytorchGELUTanh"]()(__import__("torch").ones(1)).item() > 0.8


@case("P15", "another apex", "No module named 'pyramid_mailer'", environment="apex")
def apex() -> None:
    import importlib
    import sys

    for name in [name for name in sys.modules if name == "transformers.trainer"]:
        del sys.modules[name]
    importlib.import_module("transformers.trainer")


@case(
    "P17",
    "a ptxas older than the card",
    "Value 'sm_121a' is not defined for option 'gpu-name'",
    environment="ptxas",
    having=Having(kind="cuda", vendor="nvidia", arch="sm_121"),
)
def ptxas() -> None:
    """The ptxas that this Triton would use, on a kernel that is nothing."""
    import triton

    own = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    program = os.environ.get("TRITON_PTXAS_PATH") or str(own)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "k.ptx")
        source.write_text(".version 8.8\n.target sm_121a\n.address_size 64\n.entry k(){ret;}\n")
        command = [program, "-arch=sm_121a", str(source), "-o", str(Path(folder, "k.o"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
