"""Probes that any device plugin can name: each computes on the device and compares with float64.

A probe `f(device, **arguments)` runs in a child process, returns one line that says what was
measured and raises to refuse. `device` is a `torch.device` string, a dtype is torch's name for it.
A result that is not on the device asked for, or that a backend let the CPU compute, is refused.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accel.probes.measuring import (
    TOLERANCE,
    Refused,
    check,
    dtype_of,
    error_of,
    inputs,
    line,
    ms_since,
    named,
    numbers,
    there,
)
from accel.probes.quantised import quant_linear_torch

__all__ = [
    "attention_kernel",
    "cast",
    "collective",
    "eager_attention",
    "imports",
    "kernel_compile",
    "matmul",
    "quant_linear_torch",
    "sdpa",
    "triton_jit",
]

TRUE_FLOAT32 = 2e-5
BACKENDS = {
    "flash": ("FLASH_ATTENTION", "flash"),
    "mem_efficient": ("EFFICIENT_ATTENTION", "efficient"),
    "cudnn": ("CUDNN_ATTENTION", "cudnn"),
    "math": ("MATH", ""),
}
"""Ours -> torch's name in SDPBackend, and what the operator it dispatches to has in its name."""


def matmul(device: str, dtype: str, size: int = 256) -> str:
    """A product of two size x size matrices, and its gradients.

    `tf32` is float32 with reduced precision allowed, and is refused where that changes nothing;
    a float8 goes through scaled products, forward and for the gradient; an integer has no gradient.
    """
    import torch

    if dtype == "tf32":
        return _tf32(device, size)
    kind = dtype_of(dtype)
    if not kind.is_floating_point:
        return _integer_matmul(device, kind, size)
    if kind.itemsize == 1:
        return _scaled_matmul(device, kind, size)
    with _tf32_allowed(device, False):
        error, ms = check(torch.matmul, torch.matmul, inputs(kind, *[(size, size)] * 2), device)
    short = (
        ", with less than float32's precision"
        if kind.itemsize == 4 and error > TRUE_FLOAT32
        else ""
    )
    return line(f"{dtype} matmul {size}x{size}", error, ms) + short


def cast(device: str, dtype: str) -> str:
    """Conversion to a storage format and back, forward only, as the CPU converts."""
    import torch

    kind = dtype_of(dtype)
    source = numbers((64, 64), torch.float32, 0)
    begin = time.perf_counter()
    got = there(source.to(device).to(kind), device).to(torch.float32)
    error = error_of("the result", got, source.to(kind).double(), torch.finfo(kind).eps)
    return line(f"{dtype} conversion and back, 64x64", error, ms_since(begin), "forward")


def sdpa(device: str, dtype: str, backend: str | None = None) -> str:
    """torch's attention, causal and with a mask, with gradients; `backend` one of BACKENDS, or any.

    A named backend may lack masks, and the line says so, but may not hand over to another.
    """
    from torch.nn import attention

    kind = dtype_of(dtype)
    allowed: Any = contextlib.nullcontext()
    if backend is not None:
        name = BACKENDS.get(backend, ("", ""))[0]
        if not hasattr(attention.SDPBackend, name):
            raise Refused(f"this torch has no attention backend {backend!r}")
        allowed = attention.sdpa_kernel([getattr(attention.SDPBackend, name)])
    tensors = inputs(kind, *[(2, 4, 128, 64)] * 3)
    with allowed:
        operator, error, ms = _sdpa_once(tensors, device, backend, masked=False)
        try:
            masked = max(error, _sdpa_once(tensors, device, backend, masked=True)[1])
            what = "causal and masked"
        except Refused as refusal:
            if backend is None or refusal.wanted != NO_KERNEL:
                raise
            masked, what = error, "causal, no masks"
    return line(f"{dtype} {operator} 2x4x128x64, {what}", masked, ms)


def eager_attention(device: str, dtype: str) -> str:
    """softmax(q k^T) v, causal, in plain operations, with gradients."""
    tensors = inputs(dtype_of(dtype), *[(2, 4, 128, 64)] * 3)
    error, ms = check(_attention, _attention, tensors, device)
    return line(f"{dtype} eager attention 2x4x128x64", error, ms)


def attention_kernel(device: str, dtype: str, kernel: str, layout: str = "bshd") -> str:
    """A kernel `module:function` called as f(q, k, v, causal=True), with gradients.

    Tensors are [batch, sequence, heads, dim] for `bshd`, [batch, heads, sequence, dim] for `bhsd`.
    """
    if layout not in {"bshd", "bhsd"}:
        raise Refused(f"no layout {layout!r}", remedy="bshd or bhsd")
    function = named(kernel)

    def turned(*tensors: Any) -> list[Any]:
        return [t.transpose(1, 2) if layout == "bshd" else t for t in tensors]

    def called(*heads_first: Any) -> Any:
        out = function(*(t.contiguous() for t in turned(*heads_first)), causal=True)
        return turned(out[0] if isinstance(out, (tuple, list)) else out)[0]

    tensors = inputs(dtype_of(dtype), *[(2, 4, 128, 64)] * 3)
    error, ms = check(called, _attention, tensors, device)
    return line(f"{dtype} {kernel} 2x4x128x64, causal", error, ms)


def collective(device: str, backend: str, dtype: str = "float32", tensors: str = "device") -> str:
    """all_reduce in a group of this process alone, met over a file: no network is needed.

    With `tensors = "host"` it reduces tensors of the host: for a backend that takes no others.
    """
    import datetime

    import torch
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_backend_available(backend):
        raise Refused(f"this torch has no collective backend {backend!r}")
    wanted = numbers((1024,), dtype_of(dtype), 0)
    if tensors == "host":
        device = "cpu"
    if torch.device(device).index is not None:
        getattr(torch, torch.device(device).type).set_device(device)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            backend,
            store=dist.FileStore(os.path.join(folder, "store"), 1),
            rank=0,
            world_size=1,
            timeout=datetime.timedelta(seconds=60),
        )
        try:
            got = wanted.clone().to(device)
            dist.all_reduce(got)
            error = error_of("the sum", there(got, device), wanted.double(), 0.0)
        finally:
            dist.destroy_process_group()
    return line(
        f"{backend} all_reduce of 1024 {dtype}",
        error,
        ms_since(begin),
        f"one process, tensors of the {tensors}",
    )


def imports(device: str, modules: Sequence[str]) -> str:
    """Every `module` or `module:attribute` can be imported; computes nothing."""
    for name in modules:
        named(name)
    return f"{', '.join(modules)} can be imported"


def kernel_compile(device: str) -> str:
    """torch.compile makes a kernel for the device, afresh, that computes right, with gradients."""
    import torch

    def function(x: Any, y: Any) -> Any:
        return torch.relu(torch.sin(x) * y + x).sum(dim=-1)

    with _fresh_compiler():
        from torch._inductor import metrics

        metrics.reset()
        tensors = inputs(torch.float32, (64, 96), (64, 96))
        error, ms = check(torch.compile(function, fullgraph=True), function, tensors, device)
        if not metrics.generated_kernel_count:
            raise Refused("torch.compile made no kernel: it is switched off in this environment")
        return line(f"torch.compile, {metrics.generated_kernel_count} kernels", error, ms)


def triton_jit(device: str) -> str:
    """A Triton kernel with a dot product is compiled afresh and computes right; forward only."""
    import torch

    if os.environ.get("TRITON_INTERPRET", "0") not in {"", "0"}:
        raise Refused("TRITON_INTERPRET is set: kernels are interpreted, not compiled")
    with _fresh_compiler():
        product = importlib.import_module("accel.probes.jit").product
        a, b = inputs(torch.float16, (32, 32), (32, 32))
        begin = time.perf_counter()
        got = there(product(a.to(device), b.to(device)), device)
        wanted = a.double() @ b.double() + 1.0
        error = error_of("the result", got, wanted, TOLERANCE["float16"])
    return line("triton kernel float16 dot 32x32", error, ms_since(begin), "forward")


NO_KERNEL = "torch has no kernel of this attention backend for these tensors"
_NONE_LEFT = re.compile(
    r"no (viable|available|valid) (backend|kernel)|no kernel found", re.IGNORECASE
)


def _sdpa_once(
    tensors: Sequence[Any], device: str, backend: str | None, *, masked: bool
) -> tuple[str, float, float]:
    """The operator that ran, the worst error and milliseconds."""
    import torch

    names = _watch_operators()
    mask = torch.ones(128, 128, dtype=torch.bool).tril(16)[None, None] if masked else None

    def fused(q: Any, k: Any, v: Any) -> Any:
        with names:
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=None if mask is None else mask.to(device), is_causal=not masked
            )

    try:
        error, ms = check(fused, lambda q, k, v: _attention(q, k, v, mask=mask), tensors, device)
    except RuntimeError as problem:
        if _NONE_LEFT.search(str(problem)):
            raise Refused(NO_KERNEL, found=str(problem)) from None
        raise
    ran = next((name for name in names.seen if "attention" in name), "")
    if backend is not None:
        mark = BACKENDS[backend][1]
        if (mark not in ran) if mark else bool(ran):
            raise Refused(f"{backend} was asked for, but {ran or 'plain operations'} ran")
    return ran.removeprefix("_") or "attention in plain operations", error, ms


def _watch_operators() -> Any:
    """A context in which the names of the operators that run are kept in `.seen`."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def __torch_dispatch__(
            self, operator: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            self.seen.append(str(operator).removeprefix("aten.").partition(".")[0])
            return operator(*args, **(kwargs or {}))

    return Watch()


def _attention(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    """[batch, heads, sequence, dim]; causal unless `mask` says which keys each query sees."""
    import torch

    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is None:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1) @ v


def _tf32(device: str, size: int) -> str:
    import torch

    tensors = inputs(torch.float32, (size, size), (size, size))
    with _tf32_allowed(device, False):
        full, _ = check(torch.matmul, torch.matmul, tensors, device)
    with _tf32_allowed(device, True):
        error, ms = check(torch.matmul, torch.matmul, tensors, device, TOLERANCE["tf32"])
    if error < 4 * full:
        raise Refused(
            f"tf32 was allowed and did not come into play: error {error:.1e}, {full:.1e} without"
        )
    return line(f"tf32 matmul {size}x{size}", error, ms)


@contextlib.contextmanager
def _tf32_allowed(device: str, allow: bool) -> Iterator[None]:
    """torch's own switch and, where a backend has one beside it that disagrees, that one too."""
    import torch

    before = torch.get_float32_matmul_precision()
    switch: Any = getattr(getattr(torch.backends, device.partition(":")[0], None), "matmul", None)
    own = getattr(switch, "allow_tf32", None)
    torch.set_float32_matmul_precision("high" if allow else "highest")
    try:
        if isinstance(own, bool) and switch.allow_tf32 != allow:
            switch.allow_tf32 = allow
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        if isinstance(own, bool) and switch.allow_tf32 != own:
            switch.allow_tf32 = own


def _integer_matmul(device: str, kind: Any, size: int) -> str:
    import torch

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-8, 8, (size, size), generator=generator).to(kind) for _ in range(2))
    begin = time.perf_counter()
    got = there(torch._int_mm(a.to(device), b.to(device)), device)
    error = error_of("the result", got, a.double() @ b.double(), 0.0)
    return line(f"{_name(kind)} matmul {size}x{size}", error, ms_since(begin), "forward")


def _scaled_matmul(device: str, kind: Any, size: int) -> str:
    """y = x w^T, both in the family's e4m3, and dx = dy w with dy in `kind`: as float8 trains."""
    import torch

    weights = dtype_of(_name(kind).replace("e5m2", "e4m3fn").replace("fnfn", "fn"))
    begin = time.perf_counter()
    errors = []
    for step, left in (("the result", weights), ("the gradient", kind)):
        (a, sa), (b, sb) = (_quantised(t, seed, size) for seed, t in enumerate((left, weights)))
        column_major = b.to(device).t().contiguous().t()
        got = torch._scaled_mm(
            a.to(device), column_major, sa.to(device), sb.to(device), out_dtype=torch.bfloat16
        )
        wanted = (a.double() * sa.double()) @ (b.double() * sb.double())
        errors.append(error_of(step, there(got, device), wanted, TOLERANCE["bfloat16"]))
    return line(f"{_name(kind)} scaled matmul {size}x{size}", max(errors), ms_since(begin))


def _name(kind: Any) -> str:
    return str(kind).removeprefix("torch.")


def _quantised(kind: Any, seed: int, size: int) -> tuple[Any, Any]:
    import torch

    source = numbers((size, size), torch.float32, seed)
    scale = source.abs().max() / torch.finfo(kind).max
    return (source / scale).to(kind), scale


@contextlib.contextmanager
def _fresh_compiler() -> Iterator[None]:
    """Compilers with an empty cache, so that one left from better days proves nothing."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        wanted = {
            "TORCHINDUCTOR_CACHE_DIR": os.path.join(folder, "inductor"),
            "TRITON_CACHE_DIR": os.path.join(folder, "triton"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",  # a pool of workers would outlive the probe
        }
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
