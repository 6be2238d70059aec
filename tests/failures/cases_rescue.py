"""Runs that went wrong in silence, or with an error that does not say why."""

from __future__ import annotations

from typing import Any
from unittest import mock

from cases_transformers import arguments, rows, tiny_llama
from failure import SIMULATED, Having, case

WENT_ON = "trained on with a lost loss"


def trained(model: Any, data: list[dict[str, Any]]) -> None:
    from transformers import Trainer

    trainer = Trainer(
        model=model,
        args=arguments(max_steps=3, logging_steps=1, learning_rate=1e-3, optim="adamw_torch"),
        train_dataset=data,
    )
    trainer.train()


def stopped(model: Any, data: list[dict[str, Any]], *causes: str) -> None:
    """Training stops, and says each of the causes with a remedy."""
    from accel_frameworks.diagnosing import LostLoss

    found: LostLoss | None = None
    try:
        trained(model, data)
    except LostLoss as error:
        found = error
    assert found is not None, WENT_ON
    for cause in causes:
        assert cause in str(found), str(found)
    assert found.remedy


@case("R1", "a loss that is lost to float16 weights", WENT_ON)
def half_frozen() -> None:
    model = tiny_llama("float16")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1" in name)
    stopped(model, rows(), "trainable parameters are float16, the first is model.layers.1")


@case("R1", "a loss that is lost to a damaged weight", WENT_ON)
def damaged() -> None:
    import torch

    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    stopped(
        model,
        rows(),
        "the loss is nan in step 1",
        "1 parameters are not finite, the first is model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.up_proj (Linear, torch.float32) is the first to lose it",
    )


@case("R1", "a loss that is lost to the attention", WENT_ON, how=SIMULATED)
def attention() -> None:
    def broken(query: Any, *args: Any, **kwargs: Any) -> Any:
        return query * float("nan")

    with mock.patch("torch.nn.functional.scaled_dot_product_attention", broken):
        stopped(tiny_llama(), rows(), "with eager attention it is not lost, with sdpa it is")


@case("R1", "a batch without a label", WENT_ON)
def no_label() -> None:
    import torch

    data = [{**row, "labels": torch.full_like(row["labels"], -100)} for row in rows()]
    stopped(tiny_llama(), data, "no token of this batch has a label")


@case(
    "R2",
    "a card that torch has no code for",
    "the error does not name the architectures",
    how=SIMULATED,
    having=Having(kind="cuda", arch="sm_121", dtype=("bfloat16", "float32")),
)
def no_kernel() -> None:
    from transformers import Trainer

    class Elsewhere(Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError(
                "CUDA error: no kernel image is available for execution on the device"
            )

    with mock.patch("torch.cuda.get_arch_list", return_value=["sm_80", "sm_90"]):
        trainer = Elsewhere(
            model=tiny_llama(), args=arguments(max_steps=1, use_cpu=True), train_dataset=rows()
        )
        text = ""
        try:
            trainer.train()
        except RuntimeError as error:
            text = str(error)
    named = all(word in text for word in ("sm_121", "sm_80 sm_90", "accel doctor"))
    assert named, "the error does not name the architectures"
