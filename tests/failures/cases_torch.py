"""`import torch`, its companions, and scripts that begin with a card's bridge."""

from __future__ import annotations

from typing import Any
from unittest import mock

from failure import SIMULATED, Having, case, program

program(
    "P2",
    "torchvision for another torch",
    "Could not import module",
    "import peft; from transformers import LlamaForCausalLM; print(LlamaForCausalLM)",
    said=("torchvision: is installed but cannot be imported",),
)
program(
    "P3",
    "torchaudio for another torch",
    "OSError",
    "import torchaudio; print(torchaudio.__name__)",
    said=("torchaudio: is installed but cannot be imported",),
)
program(
    "P12",
    "a bridge without its toolkit",
    "Failed to load the backend extension: torch_npu",
    "import torch; print(torch.ones(2) + 1)",
    environment="torch-npu",
    said=("torch_npu: is installed but cannot be loaded", "libhccl.so"),
)
program(
    "P12",
    "a bridge without its toolkit, and children",
    "Failed to load the backend extension: torch_npu",
    "import subprocess, sys, torch\n"
    "subprocess.run([sys.executable, '-c', 'import torch; print(torch.ones(1))'], check=True)",
    environment="torch-npu",
)
program(
    "P25",
    "a script that begins with a bridge",
    "libhccl.so: cannot open shared object file",
    "import torch_npu\nfrom torch_npu.contrib import transfer_to_npu\nimport torch\n"
    "print(torch.ones(2) + 1)",
    environment="torch-npu",
    variables={"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
    said=("torch_npu: is installed but cannot be loaded",),
)


@case(
    "P8",
    "emulated bfloat16",
    "bfloat16 is said to be supported",
    how=SIMULATED,
    having=Having(
        kind="cuda", dtype=("float16", "float32"), no_dtype={"bfloat16": "only emulated"}
    ),
)
def emulated_bfloat16() -> None:
    import torch

    properties = mock.Mock(major=7, minor=0)
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.current_device", return_value=0),
        mock.patch("torch.cuda.get_device_properties", return_value=properties),
        mock.patch("torch.cuda._check_bf16_tensor_supported", return_value=True),
        mock.patch.object(torch.version, "cuda", "12.8"),
    ):
        assert not torch.cuda.is_bf16_supported(), "bfloat16 is said to be supported"


def refusing(*args: Any, **kwargs: Any) -> Any:
    """torch's SDPA on a card whose memory-efficient kernel has no bfloat16."""
    import torch

    query = args[0]
    if query.dtype is torch.bfloat16 and torch.backends.cuda.mem_efficient_sdp_enabled():
        raise RuntimeError("cutlassF: no kernel found to launch!")
    return query


@case(
    "P9",
    "bfloat16 and the efficient kernel",
    "cutlassF: no kernel found to launch!",
    how=SIMULATED,
    having=Having(
        kind="cuda", dtype=("float16", "float32"), no_dtype={"bfloat16": "only emulated"}
    ),
)
def efficient_kernel() -> None:
    import torch
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    module = mock.Mock(is_causal=True, num_key_value_groups=1, training=False)
    query = torch.zeros(1, 2, 3, 4, dtype=torch.bfloat16)
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", refusing):
        ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, query, query, None)
