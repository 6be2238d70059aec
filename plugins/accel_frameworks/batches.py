"""A batch taken apart into pieces of fewer rows, and the pieces' results put together again."""

from __future__ import annotations

from collections.abc import Mapping

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any


def rows_of(inputs: Any) -> int:
    """How many examples a batch has: the first dimension of its tensors; 1 where they differ."""
    import torch

    if not isinstance(inputs, Mapping):
        return 1
    sizes = {len(v) for v in inputs.values() if isinstance(v, torch.Tensor) and v.dim()}
    return sizes.pop() if len(sizes) == 1 else 1


def split(inputs: Mapping[str, Any], rows: int) -> list[dict[str, Any]]:
    """The batch in pieces of at most `rows`; what has not its length is repeated in each."""
    import torch

    total = rows_of(inputs)

    def part(value: Any, start: int) -> Any:
        cut = isinstance(value, (torch.Tensor, list)) and not _scalar(value) and len(value) == total
        return value[start : start + rows] if cut else value

    return [
        {name: part(value, start) for name, value in inputs.items()}
        for start in range(0, total, rows)
    ]


def _scalar(value: Any) -> bool:
    return not isinstance(value, list) and value.dim() == 0


def shares(parts: list[Any]) -> list[float]:
    """Each piece's part of the mean over the whole: by labels that count, else by rows."""
    counts = [_counted(part) for part in parts]
    total = sum(counts)
    if not total:
        counts = [rows_of(part) for part in parts]
        total = sum(counts)
    return [count / total for count in counts]


def _counted(part: Mapping[str, Any]) -> int:
    labels = part.get("labels")
    if labels is None or getattr(labels, "dim", lambda: 0)() < 2:
        return rows_of(part)
    return int((labels[:, 1:] != -100).sum())


def merge(found: list[tuple[Any, Any, Any]], weights: list[float]) -> tuple[Any, Any, Any]:
    """`(loss, logits, labels)` of the whole from those of its pieces."""
    import functools

    from transformers.trainer_pt_utils import nested_concat

    losses = [loss for loss, _, _ in found]
    loss = None
    if all(one is not None for one in losses):
        loss = sum(one * weight for one, weight in zip(losses, weights, strict=True))

    def joined(index: int) -> Any:
        parts = [one[index] for one in found]
        if any(part is None for part in parts):
            return None
        return functools.reduce(lambda a, b: nested_concat(a, b, padding_index=-100), parts)

    return loss, joined(1), joined(2)
