"""docs/cuda-names.md is what the patches are, byte for byte; the lists are what the files say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cuda_names as support

ROOT = Path(__file__).resolve().parents[2]


def tool():
    import importlib.util

    spec = importlib.util.spec_from_file_location("cuda_names_tool", ROOT / "tools/cuda_names.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def test_the_page_is_generated():
    made = tool()
    assert made.page(made.load()) == made.PAGE.read_text(encoding="utf-8")


def test_every_name_has_an_answer_and_no_word_is_idle():
    made = tool()
    data = made.load()
    names = {n for key in ("torch_npu", "torchada", "torch_cuda") for n in data[key]["names"]}
    assert set(data["words"]) <= names
    with pytest.raises(KeyError):
        made.become("torch.nobody_knows", made.patched(), data["words"])


def test_torch_cuda_is_listed_whole():
    if not torch.__version__.startswith("2.13"):
        pytest.skip("the list is of torch 2.13")
    listed = set(tool().load()["torch_cuda"]["names"])
    assert listed == {f"torch.cuda.{name}" for name in torch.cuda.__all__}


CALLS = {
    "torch.bartlett_window": lambda f: f(4, device="cuda"),
    "torch.blackman_window": lambda f: f(4, device="cuda"),
    "torch.fft.fftfreq": lambda f: f(4, device="cuda"),
    "torch.fft.rfftfreq": lambda f: f(4, device="cuda"),
    "torch.hamming_window": lambda f: f(4, device="cuda"),
    "torch.hann_window": lambda f: f(4, device="cuda"),
    "torch.kaiser_window": lambda f: f(4, device="cuda"),
    "torch.logspace": lambda f: f(0, 1, 3, device="cuda"),
    "torch.normal": lambda f: f(0.0, 1.0, (2,), device="cuda"),
    "torch.rand_like": lambda f: f(torch.ones(2), device="cuda"),
    "torch.randint_like": lambda f: f(torch.ones(2), 3, device="cuda"),
    "torch.randn_like": lambda f: f(torch.ones(2), device="cuda"),
    "torch.scalar_tensor": lambda f: f(1.0, device="cuda"),
    "torch.tril_indices": lambda f: f(2, 2, device="cuda"),
    "torch.triu_indices": lambda f: f(2, 2, device="cuda"),
    "torch.Tensor.new_empty": lambda f: f(torch.ones(2), (2,), device="cuda"),
    "torch.Tensor.new_empty_strided": lambda f: f(torch.ones(2), (2,), (1,), device="cuda"),
    "torch.Tensor.new_full": lambda f: f(torch.ones(2), (2,), 1.0, device="cuda"),
    "torch.Tensor.new_ones": lambda f: f(torch.ones(2), (2,), device="cuda"),
    "torch.Tensor.new_zeros": lambda f: f(torch.ones(2), (2,), device="cuda"),
    "torch._empty_affine_quantized": lambda f: f(
        [2], scale=1.0, zero_point=0, dtype=torch.qint8, device="cuda"
    ),
    "torch._empty_per_channel_affine_quantized": lambda f: f(
        [2],
        scales=torch.ones(2),
        zero_points=torch.zeros(2, dtype=torch.long),
        axis=0,
        dtype=torch.qint8,
        device="cuda",
    ),
    "torch.empty_quantized": lambda f: f(
        [2], torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8), device="cuda"
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_what_the_page_says_of_the_dispatcher_is_so():
    import functools

    words = tool().load()["words"]
    said = {name for name, word in words.items() if word == "redirected, in torch's dispatcher"}
    assert said == set(CALLS)
    with support.redirected():
        for name, call in CALLS.items():
            function = functools.reduce(getattr, name.split(".")[1:], torch)
            assert call(function).device.type == "cpu", name


def test_names_are_read_out_of_a_file_and_nothing_is_run():
    source = """
raise SystemExit("this is not run")
torch_fn_white_list = ['ones', 'zeros']
torch.Tensor.cuda = torch.Tensor.npu
torch.npu.x = 3
patches = [['cuda.amp', torch_npu.npu.amp]]
_device_wrapper(torch.fft, ['fftfreq'])
import torch.distributed as dist
dist.new_group = patched
_NO_REDIRECT = {"is_available"}
"""
    assert tool().extract(source) == [
        "torch.Tensor.cuda",
        "torch.cuda.amp",
        "torch.cuda.is_available",
        "torch.distributed.new_group",
        "torch.fft.fftfreq",
        "torch.ones",
        "torch.zeros",
    ]
