"""Inside, for dtype.computes: samples of torch's operator database, on the device and in float64.

Samples are made in float64 on the CPU and rounded to the dtype, so that both sides start from the
same numbers, whatever the database thinks the device supports.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import types
import unittest
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accel.probes.measuring import TOLERANCE
from accel.probing.child import describe
from accel.testing.conformance.computing import operators

SAMPLES = 5
LARGEST = 1 << 16
"""Elements of a sample's largest tensor: what is larger shows nothing more and takes long."""


class Wrong(Exception):
    """A result is not what it should be; says which and by how much."""


@dataclasses.dataclass(frozen=True)
class _Allowed:
    """How far a result of `kind` may be off, relative to the largest value."""

    kind: Any
    error: float
    overflow: bool = False

    @classmethod
    def of(cls, name: str, kind: Any) -> _Allowed:
        looser = operators()["looser"].get(name, {})
        error = TOLERANCE[_word(kind)] * looser.get("times", 1)
        return cls(kind, error, bool(looser.get("overflows")))


class LacksIt(Exception):
    """torch itself has no such operator in this dtype on this type of device."""


def compute(device: str, dtype: str, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """For each operator first `begin`, then what became of it."""
    warnings.simplefilter("ignore")
    import torch

    known = _database()
    optimizers = operators()["optimizers"]
    kind = getattr(torch, dtype)
    for name in wanted:
        yield {"begin": name}
        try:
            if name in optimizers:
                detail = _optimizer(name, optimizers[name], device, kind)
            else:
                detail = _operator(name, known.get(name, []), device, kind)
            answer = {"status": "passed", "detail": detail}
        except LacksIt as reason:
            answer = {"status": "skipped", "detail": str(reason)}
        except BaseException as error:  # noqa: BLE001 - whatever a backend raises is its failure
            said = str(error) if isinstance(error, Wrong) else describe(error)
            answer = {"status": "failed", "detail": said}
        yield {"operator": name, **answer}


def _database() -> dict[str, list[Any]]:
    """op_db by name, with the variant after a dot."""
    # torch.testing._internal needs this package for tests of printed text, and for nothing here.
    stand_in = types.ModuleType("expecttest")
    vars(stand_in)["TestCase"] = unittest.TestCase
    sys.modules.setdefault("expecttest", stand_in)
    from torch.testing._internal.common_methods_invocations import op_db

    found: dict[str, list[Any]] = {}
    for op in op_db:
        variant = f".{op.variant_test_name}" if op.variant_test_name else ""
        found.setdefault(f"{op.name}{variant}", []).append(op)
    return found


def _operator(name: str, entries: Sequence[Any], device: str, kind: Any) -> str:
    import torch

    if not entries:
        raise LacksIt(f"torch {torch.__version__} has no operator {name} in its database")
    device_type = torch.device(device).type
    op = entries[0]
    if not any(kind in entry.supported_dtypes(device_type) for entry in entries):
        raise LacksIt(f"torch has no {name} in {_word(kind)} on {device_type}")
    backward = op.supports_autograd and kind in op.supported_backward_dtypes(device_type)
    allowed = _Allowed.of(name, kind)
    worst, count = 0.0, 0
    for sample in _samples(op):
        worst = max(worst, _compare(op, sample, device, allowed, backward))
        count += 1
    if not count:
        raise LacksIt(f"the database has no small sample of {name}")
    passes = "forward and backward" if backward else "forward"
    return f"{count} samples, {passes}, max relative error {worst:.1e}"


def _samples(op: Any) -> Iterator[Any]:
    import torch

    torch.manual_seed(0)
    small = (
        sample
        for sample in op.sample_inputs("cpu", torch.float64, requires_grad=op.supports_autograd)
        if all(t.numel() <= LARGEST for t in _tensors((sample.input, sample.args, sample.kwargs)))
        and "dtype" not in sample.kwargs
        and not sample.kwargs.get("dropout_p")  # the two sides drop different elements
    )
    return itertools.islice(small, SAMPLES)


def _compare(op: Any, sample: Any, device: str, allowed: _Allowed, backward: bool) -> float:
    """The worst error of results and gradients. Wrong where one is larger than allowed."""

    given = (sample.input, sample.args, sample.kwargs)
    exact = _mapped(given, lambda t: _leaf(t, allowed.kind, "cpu", exact=True))
    there = _mapped(given, lambda t: _leaf(t, allowed.kind, device))
    true = _tensors(op(exact[0], *exact[1], **exact[2]))
    got = _tensors(op(there[0], *there[1], **there[2]))
    if len(got) != len(true):
        raise Wrong(f"gives {len(got)} tensors, not {len(true)}")
    floats = [pair for pair in zip(got, true, strict=True) if pair[1].is_floating_point()]
    whole = [pair for pair in zip(got, true, strict=True) if not pair[1].is_floating_point()]
    for one, _ in (*floats, *whole):
        _there(one, device)
    errors = [_error("the result", one, other, allowed) for one, other in floats]
    same = all(
        one.shape == other.shape and bool((one.cpu() == other).all()) for one, other in whole
    )
    if not same and not (floats and _ties(exact[0])):
        raise Wrong("the result is not the same")
    if backward and same:  # of equal values either may be chosen, and have the gradient
        errors += _gradients(floats, there, exact, allowed)
    return max(errors, default=0.0)


def _ties(values: Any) -> bool:
    """Whether two elements of a tensor are equal, so that a choice among them is free."""
    tensors = _tensors(values)
    return any(tensor.unique().numel() < tensor.numel() for tensor in tensors)


def _gradients(
    floats: Sequence[tuple[Any, Any]], there: Any, exact: Any, allowed: _Allowed
) -> list[float]:
    import torch

    pairs = [(one, other) for one, other in floats if one.requires_grad and other.requires_grad]
    if not pairs:
        return []
    torch.manual_seed(1)
    upstream = [torch.randn(other.shape, dtype=torch.float64).to(one.dtype) for one, other in pairs]
    for side, place in ((0, pairs[0][0].device), (1, "cpu")):
        wanted = [pair[side] for pair in pairs]
        given = [u.to(place, w.dtype) for u, w in zip(upstream, wanted, strict=True)]
        torch.autograd.backward(wanted, given)
    leaves = zip(_tensors(there), _tensors(exact), strict=True)
    errors = []
    for number, (leaf, true) in enumerate(leaves):
        if true.grad is not None:
            if leaf.grad is None:
                raise Wrong(f"gradient {number} is missing")
            errors.append(_error(f"gradient {number}", leaf.grad, true.grad, allowed))
    return errors


def _leaf(tensor: Any, kind: Any, device: str, exact: bool = False) -> Any:
    """The sample's tensor, rounded to `kind`: on the device, or in float64 as the exact one."""
    import torch

    if not tensor.is_floating_point():
        return tensor.detach().clone().to(device)
    rounded = tensor.detach().to(kind)
    leaf = rounded.double() if exact else rounded.to(device)
    if leaf.data_ptr() == tensor.data_ptr():
        leaf = leaf.clone()
    return leaf.requires_grad_(tensor.requires_grad) if isinstance(leaf, torch.Tensor) else leaf


def _mapped(given: Any, change: Any) -> Any:
    import torch
    from torch.utils._pytree import tree_map

    return tree_map(
        lambda value: change(value) if isinstance(value, torch.Tensor) else value, given
    )


def _tensors(value: Any) -> list[Any]:
    import torch
    from torch.utils._pytree import tree_flatten

    return [item for item in tree_flatten(value)[0] if isinstance(item, torch.Tensor)]


def _there(tensor: Any, device: str) -> None:
    import torch

    if tensor.device.type != torch.device(device).type:
        raise Wrong(f"the result is on {tensor.device}, not on {device}")


def _error(what: str, got: Any, true: Any, allowed: _Allowed) -> float:
    """Largest error relative to the largest value, or to 1, where the dtype has such numbers."""
    import torch

    if tuple(got.shape) != tuple(true.shape):
        raise Wrong(f"{what} has shape {tuple(got.shape)}, not {tuple(true.shape)}")
    got, true = got.detach().cpu().double(), true.detach()
    known = true.isfinite() & (true.abs() < torch.finfo(allowed.kind).max / 2)
    if allowed.overflow:
        known &= got.isfinite()
    if not known.any():
        return 0.0
    got, true = got[known], true[known]
    if not got.isfinite().all():
        raise Wrong(f"{what} has values that are not finite")
    error = float((got - true).abs().max() / max(float(true.abs().max()), 1.0))
    if error > allowed.error:
        raise Wrong(f"{what} is wrong: max relative error {error:.1e}, allowed {allowed.error:.0e}")
    return error


def _optimizer(name: str, options: Mapping[str, Any], device: str, kind: Any) -> str:
    """Three steps on a small layer, each from a gradient that is the same on both sides."""
    import torch

    torch.manual_seed(0)
    start = torch.randn(16, 8, dtype=torch.float64).to(kind).detach()
    steps = [torch.randn(16, 8, dtype=torch.float64).to(kind) for _ in range(3)]
    here = start.double().clone().requires_grad_()
    there = start.clone().to(device).detach().requires_grad_()
    for weight in (here, there):
        make = getattr(torch.optim, name)
        optimizer = make([weight], **options)
        for step in steps:
            weight.grad = step.to(weight.device, weight.dtype)
            optimizer.step()
    _there(there, device)
    error = _error("the weight", there, here, _Allowed.of(name, kind))
    return f"3 steps, max relative error {error:.1e}"


def _word(kind: Any) -> str:
    return str(kind).removeprefix("torch.")
