"""The stand-in for torch_npu has no name that the real one, as its wheel 2.13.0 is, has not."""

from __future__ import annotations

import json

import pytest

from sim_support import HERE, needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow]

NAMES = HERE / "torch_npu_names.json"
LIST = """
import importlib, json, types, torch, torch_npu
found = {}
for name in NAMES:
    module = torch.npu if name == "torch.npu" else importlib.import_module(name)
    found[name] = sorted(
        key for key, value in vars(module).items()
        if not key.startswith("_") and not key[0].isupper() and key not in ("annotations", "torch")
        and (callable(value) or isinstance(value, types.ModuleType))
        and getattr(value, "__name__", "").split(".")[0] not in ("typing", "accel_simulator")
        or key in ("Stream", "Event", "StreamContext", "GradScaler", "NpuFusedAdamW")
    )
print("NAMES", json.dumps(found))
"""


def test_no_name_is_invented(simulate):
    real = json.loads(NAMES.read_text(encoding="utf-8"))["names"]
    ended = simulate("ascend-910b2", "python", "-c", f"NAMES = {list(real)!r}\n{LIST}")
    line = next(line for line in ended.stdout.splitlines() if line.startswith("NAMES "))
    found = json.loads(line.removeprefix("NAMES "))
    invented = {module: sorted(set(found[module]) - set(real[module])) for module in found}
    assert {module: names for module, names in invented.items() if names} == {}
    assert {"device_count", "set_compile_mode", "is_bf16_supported"} <= set(found["torch.npu"])
    assert {"npu_fusion_attention", "npu_rms_norm"} <= set(found["torch_npu"])


def test_transformers_attention_on_the_npu_computes_right(simulate):
    code = """
import torch
from transformers.integrations.npu_flash_attention import npu_flash_attn_func
q, k, v = (torch.randn(2, 9, 4, 8, device="npu", requires_grad=True) for _ in range(3))
out = npu_flash_attn_func(q, k, v, causal=True)
out.sum().backward()
plain = torch.nn.functional.scaled_dot_product_attention(
    *(t.detach().cpu().transpose(1, 2) for t in (q, k, v)), is_causal=True
).transpose(1, 2)
torch.testing.assert_close(out.detach().cpu(), plain, rtol=1e-4, atol=1e-5)
print("RIGHT", q.grad.device)
"""
    ended = simulate("ascend-910b2", "python", "-c", code)
    assert "RIGHT npu:0" in ended.stdout, ended.stderr
