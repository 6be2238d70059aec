"""Training that would have ended: out of memory halves the batch, fp16 weights become float32.

A step that runs out of memory is taken again in pieces whose gradients add up to the same, and
from then on every batch is taken in pieces of that size. The optimiser, the schedule and the
effective batch are as they were.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

from accel.values import Level, Note, Patch
from accel_frameworks import diagnosing
from accel_frameworks.batches import merge, rows_of, shares, split

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

TRAINER = "transformers.trainer:Trainer"
MEMORY_WORDS = ("out of memory", "can't allocate memory", "cudaErrorMemoryAllocation")
PLAIN_COPY = "modules_to_save"
"""peft's copies of plain modules, which do not convert their input as its adapters do."""

SYNCHRONOUS = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "TP")
"""Ways of training in which every forward pass is a conversation between the ranks."""


def patches(capabilities: Capabilities) -> list[Patch]:
    """For every device: they do nothing until something goes wrong."""
    return [
        Patch(
            target=f"{TRAINER}.train",
            reason="out of memory, a loss that is 0 or NaN and trainable float16 weights end a "
            "run, or ruin it in silence",
            replace=lambda original: _trained(original, capabilities),
            distribution="transformers",
            versions=">=4.51",
            parameters=("self",),
            upstream="https://github.com/hiyouga/LLaMA-Factory/issues/8088",
            until="Trainer halves its own batch and checks its first losses",
            symptom="ValueError: Attempting to unscale FP16 gradients; or a loss that is 0.0 from "
            "the second step on, with grad_norm nan",
        ),
        Patch(
            target=f"{TRAINER}.evaluation_loop",
            reason="a batch that fits while training may not fit in evaluation, whose logits are "
            "kept: the whole run ends at the first evaluation",
            replace=lambda original: _evaluated(original, capabilities),
            distribution="transformers",
            versions=">=4.51",
            parameters=("self",),
            upstream="https://github.com/hiyouga/LLaMA-Factory/issues/5957",
            until="Trainer halves its own evaluation batch",
            symptom="torch.OutOfMemoryError: CUDA out of memory, in evaluation_loop",
        ),
    ]


def _trained(original: Callable[..., Any], capabilities: Capabilities) -> Callable[..., Any]:
    @functools.wraps(original)
    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not (self.is_deepspeed_enabled or self.is_fsdp_enabled):  # they keep copies of their own
            in_float32(self.model, bool(self.args.fp16), capabilities)
        if self.args.auto_find_batch_size:
            return original(self, *args, **kwargs)
        step = TrainingStep(self, capabilities)
        with instead_of(self, "training_step", step):
            return original(self, *args, **kwargs)

    return train


def _evaluated(original: Callable[..., Any], capabilities: Capabilities) -> Callable[..., Any]:
    @functools.wraps(original)
    def evaluation_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        with instead_of(self, "prediction_step", PredictionStep(self, capabilities)):
            return original(self, *args, **kwargs)

    return evaluation_loop


@contextlib.contextmanager
def instead_of(trainer: Any, name: str, replacement: Any) -> Iterator[None]:
    """The trainer's method, whichever class defines it, replaced on this one instance."""
    if name in vars(trainer):  # already rescued, or the user's own
        yield
        return
    setattr(trainer, name, replacement)
    try:
        yield
    finally:
        delattr(trainer, name)


def in_float32(model: Any, mixed: bool, capabilities: Capabilities) -> int:
    """Make trainable float16 parameters float32, as optimisers need them; how many there were.

    Left alone where a plain module would then be fed float16 without autocast: only adapters,
    which convert their input themselves, and models that are trainable as a whole can be mended.
    """
    import torch

    if model is None:
        return 0
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    half = [name for name, p in trainable.items() if p.dtype is torch.float16]
    if not mixed and not all(p.requires_grad for p in model.parameters()):
        adapters = hasattr(model, "peft_config")
        half = [name for name in half if adapters and PLAIN_COPY not in name]
    if not half:
        return 0
    for name in half:
        trainable[name].data = trainable[name].data.to(torch.float32)
    capabilities.note(
        Note(
            level=Level.INFO,
            subject="Trainer.train",
            message=f"{len(half)} trainable parameters were float16 and are float32 now: an "
            "optimiser's steps are lost in float16, and its state overflows",
            origin="accel_frameworks",
        )
    )
    return len(half)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether any device's allocator, the host's included, could not serve a request."""
    if isinstance(error, MemoryError):
        return True
    kind = type(error).__name__
    text = str(error)
    return isinstance(error, RuntimeError) and (
        kind == "OutOfMemoryError" or any(words in text for words in MEMORY_WORDS)
    )


class _Pieces:
    """What both kinds of step share: how many rows fit, and what is said when fewer do."""

    what = "a batch"

    def __init__(self, trainer: Any, capabilities: Capabilities) -> None:
        self.trainer = trainer
        self.capabilities = capabilities
        kind = type(trainer)
        self.original: Callable[..., Any] = getattr(trainer, self.method)
        self.name = kind.__name__
        self.fits: int | None = None

    method = ""

    def smaller(self, rows: int, error: BaseException) -> None:
        """Halve; raises `error` again where one row is already too much."""
        if rows < 2:
            raise error
        self.fits = max(1, rows // 2)
        self._release()
        self.capabilities.note(
            Note(
                level=Level.WARNING,
                subject=f"{self.name}.{self.method}",
                message=f"{self.what} of {rows} did not fit into the memory of "
                f"{self.capabilities.device.name}: taken in pieces of {self.fits} from here on, "
                "results are those of the whole batch",
                remedy=self.remedy(self.fits),
                origin="accel_frameworks",
            )
        )

    def remedy(self, rows: int) -> str:
        raise NotImplementedError

    def _release(self) -> None:
        import gc

        import torch

        gc.collect()
        if self.capabilities.device.kind != "cpu":
            torch.get_device_module(self.capabilities.device.kind).empty_cache()

    def synchronous(self) -> bool:
        """Whether ranks talk in the forward pass, so that no single one may repeat it."""
        kind = str(getattr(self.trainer.accelerator.distributed_type, "value", ""))
        return kind in SYNCHRONOUS


class TrainingStep(_Pieces):
    """`training_step`, in pieces where it has to be."""

    what = "a training batch"
    method = "training_step"

    def __init__(self, trainer: Any, capabilities: Capabilities) -> None:
        super().__init__(trainer, capabilities)
        self._window: list[tuple[Any, Any]] = []
        self._in_backward = False

    def __call__(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        try:
            loss = self._whole_or_pieces(model, inputs, num_items_in_batch)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            explained = diagnosing.explain(error, self.capabilities)
            if explained is None:
                raise
            raise explained from error
        diagnosing.check_loss(self.trainer, model, inputs, loss, self.capabilities)
        self._window.append((inputs, num_items_in_batch))
        if self.trainer.accelerator.sync_gradients:
            self._window.clear()
        return loss

    def remedy(self, rows: int) -> str:
        steps = self.trainer.args.gradient_accumulation_steps
        batch = self.trainer.args.per_device_train_batch_size
        return (
            f"per_device_train_batch_size: {rows} with gradient_accumulation_steps: "
            f"{steps * max(1, batch // rows)}, which is the same and saves the attempt"
        )

    def _whole_or_pieces(self, model: Any, inputs: Any, items: Any) -> Any:
        rows = rows_of(inputs)
        if self.fits is not None and rows > self.fits:
            return self._pieces(model, inputs, items)
        try:
            return self._one(model, inputs, items)
        except Exception as error:
            if not is_out_of_memory(error) or not self._may_repeat():
                raise
            self.smaller(rows, error)
        self._start_window_again(model)
        return self._pieces(model, inputs, items)

    def _one(self, model: Any, inputs: Any, items: Any, weight: float = 1.0) -> Any:
        """One call of the original, its loss times `weight`."""
        import copy

        accelerator = self.trainer.accelerator
        own = vars(accelerator).get("backward")
        backward = accelerator.backward

        def weighted(loss: Any, **kwargs: Any) -> None:
            self._in_backward = True
            backward(loss * weight if weight != 1.0 else loss, **kwargs)

        self._in_backward = False
        accelerator.backward = weighted
        try:
            # a copy: some trainers take entries out of it
            loss = self.original(model, copy.copy(inputs), num_items_in_batch=items)
        finally:
            if own is None:
                del accelerator.backward
            else:
                accelerator.backward = own
        return loss * weight

    def _pieces(self, model: Any, inputs: Any, items: Any) -> Any:
        while True:
            assert self.fits is not None
            parts = split(inputs, self.fits)
            weights = self._weights(parts, items)
            total: Any = 0.0
            try:
                for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
                    with self._no_sync(model, last=number == len(parts) - 1):
                        total = total + self._one(model, part, items, weight)
                return total
            except Exception as error:
                if not is_out_of_memory(error) or not self._may_repeat():
                    raise
                self.smaller(self.fits, error)
            self._start_window_again(model)

    def _weights(self, parts: list[Any], items: Any) -> list[float]:
        """1 where the loss is already a share of the whole batch's, else each piece's share."""
        trainer = self.trainer
        if items is not None and (trainer.model_accepts_loss_kwargs or trainer.compute_loss_func):
            return [1.0] * len(parts)
        return shares(parts)

    def _no_sync(self, model: Any, *, last: bool) -> Any:
        return contextlib.nullcontext() if last else self.trainer.accelerator.no_sync(model)

    def _may_repeat(self) -> bool:
        """Not where other ranks already wait for this one's gradients."""
        alone = int(getattr(self.trainer.args, "world_size", 1)) == 1
        if self.synchronous():  # and gradients that are not in `.grad`
            return alone and not self._in_backward
        return alone or not self._in_backward

    def _start_window_again(self, model: Any) -> None:
        """Gradients as before the failed attempt: away with them, and the steps before once more.

        A backward pass that failed half-way has added to some of them.
        """
        window, self._window = self._window, []
        if not self._in_backward:
            self._window = window
            return
        model.zero_grad()
        for inputs, items in window:
            self._whole_or_pieces(model, inputs, items)
            self._window.append((inputs, items))


class PredictionStep(_Pieces):
    """`prediction_step`, in pieces where it has to be."""

    what = "an evaluation batch"
    method = "prediction_step"

    def remedy(self, rows: int) -> str:
        return f"per_device_eval_batch_size: {rows}, which saves the attempt"

    def __call__(
        self, model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> Any:
        rows = rows_of(inputs)
        while True:
            pieces = self.fits is not None and rows > self.fits
            parts = split(inputs, self.fits or rows) if pieces else [inputs]
            try:
                found = [
                    self.original(model, part, prediction_loss_only, *args, **kwargs)
                    for part in parts
                ]
                return found[0] if len(found) == 1 else merge(found, shares(parts))
            except Exception as error:
                if not is_out_of_memory(error) or self.synchronous():
                    raise
                self.smaller(min(rows, self.fits or rows), error)
