"""The parts of the rescue: batches in pieces, and what they add up to."""

from __future__ import annotations

import contextlib
import sys
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel.errors import CapabilityUnavailable
from accel.values import Feature
from accel_frameworks import arguments, batches, diagnosing, llamafactory_webui, rescue, switching


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5))
def test_pieces_are_the_batch(rows, piece, width):
    batch = {
        "input_ids": torch.arange(rows * width).reshape(rows, width),
        "names": [str(number) for number in range(rows)],
        "temperature": 0.5,
        "scale": torch.tensor(2.0),
    }
    parts = batches.split(batch, piece)
    assert all(batches.rows_of(part) <= piece for part in parts)
    assert torch.equal(torch.cat([part["input_ids"] for part in parts]), batch["input_ids"])
    assert [name for part in parts for name in part["names"]] == batch["names"]
    assert all(part["temperature"] == 0.5 for part in parts)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=8))
def test_shares_weigh_by_the_labels_that_count(kept):
    labels = torch.where(torch.tensor(kept), 1, -100)
    losses = torch.rand(len(kept), 2)
    counted = (labels[:, 1:] != -100).float()
    parts = batches.split({"labels": labels}, 2)
    shares = batches.shares(parts)
    assert sum(shares) == pytest.approx(1.0)
    if counted.sum() == 0:
        return
    whole = (losses * counted).sum() / counted.sum()
    pieces = [
        (losses[start : start + 2] * counted[start : start + 2]).sum()
        / counted[start : start + 2].sum().clamp(min=1)
        for start in range(0, len(kept), 2)
    ]
    total = sum(piece * share for piece, share in zip(pieces, shares, strict=True))
    assert float(total) == pytest.approx(float(whole), rel=1e-4)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("NPU out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_out_of_memory_looks_like(error, is_one):
    assert rescue.is_out_of_memory(error) is is_one


def test_one_row_that_does_not_fit_is_the_error_it_was(capable):
    trainer = types.SimpleNamespace(
        prediction_step=lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("no")),
        accelerator=types.SimpleNamespace(distributed_type=None),
        args=types.SimpleNamespace(),
    )
    step = rescue.PredictionStep(trainer, capable())
    with pytest.raises(torch.OutOfMemoryError):
        step(None, {"input_ids": torch.zeros(4, 2)}, True)
    assert step.fits == 1


def test_adapters_only_where_they_can_take_it(capable):
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)).half()
    layer[0].requires_grad_(False)
    assert rescue.in_float32(layer, False, capable()) == 0, "the next layer would get float16"
    assert rescue.in_float32(layer, True, capable()) == 2, "autocast converts"
    assert layer[0].weight.dtype is torch.float16
    assert layer[1].weight.dtype is torch.float32


def test_an_adapter_s_plain_copies_stay(capable):
    layer = torch.nn.ModuleDict(
        {"base": torch.nn.Linear(2, 2), "lora_A": torch.nn.Linear(2, 2)},
    ).half()
    layer["modules_to_save"] = torch.nn.Linear(2, 2).half()
    layer["base"].requires_grad_(False)
    layer.peft_config = {}
    assert rescue.in_float32(layer, False, capable()) == 2
    assert layer["lora_A"].weight.dtype is torch.float32
    assert layer["modules_to_save"].weight.dtype is torch.float16


def test_other_errors_are_not_explained(capable):
    assert diagnosing.explain(RuntimeError("shape mismatch"), capable()) is None


def test_a_request_is_replaced_with_a_line_or_refused(capable):
    capabilities = capable()
    switching.instead(capabilities, "x: true", use="x is off", reason="no x here")
    (note,) = capabilities.notes
    assert note.message == "x is off on Test Card: no x here"
    with pytest.raises(CapabilityUnavailable, match="no x here"):
        switching.instead(capable(strict=True), "x: true", use="x is off", reason="no x here")


def test_what_the_device_has_is_left_alone(capable):
    from accel.machine import ThisMachine
    from accel.resolving import Capabilities
    from accel.values import Impl

    made = capable(kind="cuda", dtype=("bfloat16", "tf32", "float32"))
    impls = [decision.impl for decision in made.decisions]
    nccl = Impl(feature=Feature.COLLECTIVE, name="nccl", priority=1)
    capabilities = Capabilities(made.device, [*impls, nccl], ThisMachine())
    given = types.SimpleNamespace(
        bf16=True, tf32=True, optim="adamw_torch", ddp_backend="nccl", use_cpu=False
    )
    before = dict(vars(given))
    arguments.settle(given, capabilities)
    assert vars(given) == before
    assert capabilities.notes == ()


@pytest.mark.parametrize("switch", [False, True, None])
def test_tf32_that_transformers_cannot_turn_on_is_off(capable, monkeypatch, switch):
    """A Cambricon has TF32, and transformers raises for it."""
    library = types.SimpleNamespace()
    if switch is not None:
        library.is_torch_tf32_available = lambda: switch
    monkeypatch.setitem(sys.modules, "transformers.utils.import_utils", library)
    capabilities = capable(kind="mlu", dtype=("bfloat16", "tf32", "float32"))
    given = types.SimpleNamespace(bf16=True, fp16=False, tf32=True, optim="", use_cpu=False)
    arguments.settle(given, capabilities)
    assert given.tf32 is (None if switch is False else True)
    assert [note.subject for note in capabilities.notes] == (
        ["SimpleNamespace(tf32=True)"] if switch is False else []
    )


@pytest.mark.parametrize(
    ("offered", "dtype", "wanted", "shown"),
    [
        ("bf16", ("bfloat16", "float16"), None, "bf16"),
        ("bf16", ("float16", "float32"), None, "fp16"),
        ("bf16", ("float32",), None, "fp32"),
        ("bf16", ("bfloat16", "float16"), "float16", "fp16"),
        ("bf16", (), None, "bf16"),
    ],
)
def test_the_page_offers_what_there_is(capable, offered, dtype, wanted, shown):
    own = {} if wanted is None else {Feature.DTYPE: wanted}
    capabilities = capable(kind="npu", dtype=dtype, wanted=own)
    assert llamafactory_webui.compute_type(offered, capabilities) == shown


def test_only_llamafactory_s_own_command_is_served():
    served = llamafactory_webui.served(["llamafactory-cli", "train", "a b.yaml"])
    assert served[1:] == ["-m", "accel", "llamafactory", "train", "a b.yaml"]
    assert llamafactory_webui.served(["ls", "-l"]) == ["ls", "-l"]


def test_the_first_to_lose_it_is_named_whatever_else_it_was_given():
    class Loses(torch.nn.Module):
        def forward(self, mask, nothing, x):
            return x * float("inf")

    model = torch.nn.Sequential(torch.nn.Identity())
    model.add_module("loses", Loses())
    trainer = types.SimpleNamespace(
        compute_loss_context_manager=contextlib.nullcontext,
        _prepare_inputs=lambda inputs: inputs,
        compute_loss=lambda model, inputs: model.loses(
            torch.tensor([True]), torch.empty(0), inputs["x"]
        ),
    )
    said = diagnosing._first_lost(trainer, model, {"x": torch.tensor([2.0, -3.0])})
    assert (
        said == "loses (Loses, torch.float32) is the first to lose it, from an input of at most 3"
    )


def test_a_gradient_of_nothing_is_no_sign_of_life():
    model = torch.nn.ParameterList([torch.ones(0), torch.ones(2)])
    for parameter in model:
        parameter.grad = torch.zeros_like(parameter)
    assert diagnosing._gradients_live(model) is False
    model[1].grad += 1
    assert diagnosing._gradients_live(model) is True
