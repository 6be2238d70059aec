"""accel's own probes pass where the thing is there, and refuse where it is not. On the CPU."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accel import probes
from accel.machine import ThisMachine
from accel.probes import measuring
from accel.probes.measuring import Refused
from accel.probing import Prober
from accel.values import Device, Feature, Impl, Probe

torch = pytest.importorskip("torch")
MODULES = Path(__file__).parent / "probe_modules"
CPU = Device(vendor="test", name="the host", kind="cpu", arch="host")
MEASURED = r"max relative error \d\.\de[-+]\d\d, [\d.]+(e\+\d+)? ms"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(MODULES))
    yield
    sys.modules.pop("judged_kernels", None)


@pytest.mark.skipif(os.name != "posix", reason="probes need a POSIX system")
def test_a_real_batch_in_a_real_child(tmp_path: Path) -> None:
    def impl(feature: Feature, name: str, function: str, **arguments: Any) -> Impl:
        return Impl(
            feature=feature,
            name=name,
            probe=Probe(function=f"accel.probes:{function}", arguments=arguments),
        )

    results = Prober(CPU, ThisMachine(), cache_dir=tmp_path)(
        [
            impl(Feature.DTYPE, "float32", "matmul", dtype="float32"),
            impl(Feature.DTYPE, "bfloat16", "matmul", dtype="bfloat16"),
            impl(Feature.ATTENTION, "eager", "eager_attention", dtype="float32"),
            impl(Feature.OP, "sdpa_math", "sdpa", dtype="float32", backend="math"),
            impl(Feature.OP, "sdpa_flash", "sdpa", dtype="bfloat16", backend="flash"),
            impl(Feature.OP, "sdpa_cudnn", "sdpa", dtype="bfloat16", backend="cudnn"),
            impl(Feature.COLLECTIVE, "gloo", "collective", backend="gloo"),
            impl(Feature.COLLECTIVE, "none", "collective", backend="nonesuch"),
        ]
    )
    assert {name for name, result in results.items() if not result.passed} == {
        "op:sdpa_cudnn",
        "collective:none",
    }
    assert results["collective:none"].detail == "this torch has no collective backend 'nonesuch'"
    assert results["dtype:float32"].detail.startswith("float32 matmul 256x256, forward+backward, ")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_matmul(dtype: str) -> None:
    _measured(probes.matmul("cpu", dtype))


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "float8_e5m2"])
def test_matmul_of_a_small_dtype_passes_or_says_that_it_is_not_there(dtype: str) -> None:
    try:
        said = probes.matmul("cpu", dtype)
    except (RuntimeError, AttributeError) as error:  # older versions of torch have none on a CPU
        if "_scaled_mm" not in str(error) and "_int_mm" not in str(error):
            raise
    else:
        _measured(said)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_cast(dtype: str) -> None:
    _measured(probes.cast("cpu", dtype))


@pytest.mark.parametrize("dtype", ["nvfp4", "no_such_dtype", "nn"])
def test_a_dtype_that_torch_lacks_is_refused(dtype: str) -> None:
    with pytest.raises(Refused, match=f"this torch has no dtype {dtype}"):
        probes.matmul("cpu", dtype)


def test_tf32_that_changes_nothing_is_refused_and_the_switch_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(Refused, match="did not come into play"):
        probes.matmul("cpu", "tf32")
    assert torch.get_float32_matmul_precision() == before


def test_tf32_that_does_something_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    _round_products(monkeypatch, lambda: torch.get_float32_matmul_precision() == "high")
    _measured(probes.matmul("cpu", "tf32"))


def test_float32_computed_in_less_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _round_products(monkeypatch, lambda: True)
    assert probes.matmul("cpu", "float32").endswith("less than float32's precision")


def _round_products(monkeypatch: pytest.MonkeyPatch, when: Any) -> None:
    """Matrix products of float32 lose 12 bits of each factor, as on matrix units."""
    original = torch.matmul

    def rounded(tensor: Any) -> Any:
        return tensor + (tensor.detach().half().float() - tensor.detach())

    def matmul(a: Any, b: Any) -> Any:
        if a.dtype == torch.float32 and when():
            return original(rounded(a), rounded(b))
        return original(a, b)

    monkeypatch.setattr(torch, "matmul", matmul)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda a, b: a @ b * 1.1, "the result is wrong: max relative error 1.0e-01"),
        (lambda a, b: a @ b + torch.nan, "the result has values that are not finite"),
        (lambda a, b: a.detach() @ b, "gradient 0 is missing"),
        (lambda a, b: (a @ b)[:1], "the result has shape"),
        (lambda a, b: (a @ b).to("meta"), "the result is on meta, not on cpu"),
    ],
    ids=["result", "nan", "gradient", "shape", "device"],
)
def test_matmul_refuses_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, wrong: Any, words: str
) -> None:
    def matmul(a: Any, b: Any) -> Any:
        return a @ b if a.dtype == torch.float64 else wrong(a, b)

    monkeypatch.setattr(torch, "matmul", matmul)
    with pytest.raises(Refused) as caught:
        probes.matmul("cpu", "float32")
    assert words in str(caught.value)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises((RuntimeError, AssertionError)):
        probes.matmul("xla:0", "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backend", [None, "flash", "math"])
def test_sdpa(dtype: str, backend: str | None) -> None:
    said = probes.sdpa("cpu", dtype, backend)
    _measured(said)
    assert ("plain operations" in said) == (backend == "math")
    assert "causal and masked" in said


@pytest.mark.parametrize("backend", ["mem_efficient", "cudnn"])
def test_a_kernel_of_sdpa_that_the_device_lacks_is_refused(backend: str) -> None:
    with pytest.raises(Refused, match="no kernel of this attention backend"):
        probes.sdpa("cpu", "float32", backend)


def test_a_backend_that_sdpa_does_not_know_is_refused() -> None:
    with pytest.raises(Refused, match="no attention backend 'quick'"):
        probes.sdpa("cpu", "float32", "quick")


@pytest.mark.parametrize(("asked", "ran"), [("flash", "MATH"), ("math", "FLASH_ATTENTION")])
def test_a_backend_that_hands_over_to_another_is_refused(
    monkeypatch: pytest.MonkeyPatch, asked: str, ran: str
) -> None:
    """As a device does that ignores torch's switches."""
    from torch.nn import attention

    original = attention.sdpa_kernel
    other = getattr(attention.SDPBackend, ran)
    monkeypatch.setattr(attention, "sdpa_kernel", lambda backends: original([other]))
    with pytest.raises(Refused, match=f"{asked} was asked for, but .* ran"):
        probes.sdpa("cpu", "float32", asked)


def test_a_backend_without_masks_says_so_and_any_backend_must_have_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = torch.nn.functional.scaled_dot_product_attention

    def maskless(*tensors: Any, attn_mask: Any, is_causal: bool) -> Any:
        if attn_mask is not None:
            raise RuntimeError("No available kernel. Aborting execution.")
        return original(*tensors, is_causal=is_causal)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", maskless)
    assert "causal, no masks" in probes.sdpa("cpu", "float32", "flash")
    with pytest.raises(Refused, match="no kernel"):
        probes.sdpa("cpu", "float32")


def test_sdpa_that_ignores_the_mask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.nn.functional.scaled_dot_product_attention

    def deaf(*tensors: Any, attn_mask: Any, is_causal: bool) -> Any:
        return original(*tensors, is_causal=is_causal)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", deaf)
    with pytest.raises(Refused, match="the result is wrong"):
        probes.sdpa("cpu", "float32", "flash")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_eager_attention(dtype: str) -> None:
    _measured(probes.eager_attention("cpu", dtype))


def test_eager_attention_refuses_a_softmax_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.Tensor.softmax

    def softmax(tensor: Any, dim: int) -> Any:
        return original(tensor if tensor.dtype == torch.float64 else tensor * 2, dim)

    monkeypatch.setattr(torch.Tensor, "softmax", softmax)
    with pytest.raises(Refused, match="the result is wrong"):
        probes.eager_attention("cpu", "float32")


@pytest.mark.parametrize(("kernel", "layout"), [("right", "bshd"), ("right_heads_first", "bhsd")])
def test_attention_kernel(kernel: str, layout: str) -> None:
    _measured(probes.attention_kernel("cpu", "bfloat16", f"judged_kernels:{kernel}", layout))


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ("not_causal", "the result is wrong"),
        ("no_gradient", "gradient 1 is missing"),
        ("nan_gradient", "gradient 0 has values that are not finite"),
        ("elsewhere", "the result is on meta"),
        ("wrong_shape", "the result has shape (2, 4, 127, 64), not (2, 4, 128, 64)"),
        ("infinite", "the result has values that are not finite"),
    ],
)
def test_attention_kernel_refuses_what_is_wrong(kernel: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        probes.attention_kernel("cpu", "float32", f"judged_kernels:{kernel}")
    assert words in str(caught.value)


def test_attention_kernel_refuses_another_layout_and_a_kernel_that_is_not_there() -> None:
    with pytest.raises(Refused, match="no layout 'sbhd'"):
        probes.attention_kernel("cpu", "float32", "judged_kernels:right", "sbhd")
    with pytest.raises(AttributeError):
        probes.attention_kernel("cpu", "float32", "judged_kernels:nonesuch")
    with pytest.raises(ModuleNotFoundError):
        probes.attention_kernel("cpu", "float32", "no_such_module:f")


def test_collective_refuses_a_wrong_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(2))
    with pytest.raises(Refused, match="the sum is wrong"):
        probes.collective("cpu", "gloo")
    assert not torch.distributed.is_initialized()


def test_collective_refuses_a_backend_that_this_torch_lacks() -> None:
    with pytest.raises(Refused, match="no collective backend 'nonesuch'"):
        probes.collective("cpu", "nonesuch")


def test_imports() -> None:
    said = probes.imports("cpu", ["json", "json:decoder.JSONDecoder"])
    assert said == "json, json:decoder.JSONDecoder can be imported"
    with pytest.raises(ModuleNotFoundError):
        probes.imports("cpu", ["json", "no_such_module"])
    with pytest.raises(AttributeError):
        probes.imports("cpu", ["json:decoder.nonesuch"])


def test_a_warning_that_the_cpu_stood_in_is_a_refusal() -> None:
    import warnings

    said = "The operator 'aten::x' is not supported and will fall back to run on the CPU."
    with pytest.raises(Refused, match="the CPU computed it"), measuring.no_fallback("far:0"):
        warnings.warn(said, stacklevel=1)
    with measuring.no_fallback("cpu"):
        warnings.warn(said, stacklevel=1)
    with measuring.no_fallback("far:0"):
        warnings.warn("falling back to the slow path", stacklevel=1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_kernel_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    _measured(probes.kernel_compile("cpu"))
    assert os.environ["TRITON_CACHE_DIR"] == "mine"
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_kernel_compile_that_is_switched_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, fullgraph: function)
    with pytest.raises(Refused, match="switched off"):
        probes.kernel_compile("cpu")


def test_triton_jit_refuses_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(Refused, match="interpreted, not compiled"):
        probes.triton_jit("cpu")
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises((ImportError, RuntimeError)):
        probes.triton_jit("cpu")


def _measured(said: str) -> None:
    assert re.search(MEASURED, said), said
