"""What the probes share: numbers, their gradients on a device, and how far off they are."""

from __future__ import annotations

import contextlib
import importlib
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from accel.errors import AccelError

TOLERANCE = {"float64": 1e-10, "float32": 2e-3, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 4e-2}
"""Largest error allowed, relative to the largest value: some roundings, far from a wrong number.

Some devices compute float32 with float16's mantissa unless told otherwise: said, not refused."""

_FELL_BACK = re.compile(r"\bfall(s|ing)?[ -]?back\b.*\bcpu\b|\bcpu\b.*\bfall[ -]?back", re.I | re.S)

Function = Callable[..., Any]


class Refused(AccelError):
    """A probe's own no: wrong numbers, a kernel that is not there. The device is none the worse."""

    harmless = True


def dtype_of(name: str) -> Any:
    """torch's dtype of that name."""
    import torch

    kind = getattr(torch, name, None)
    if not isinstance(kind, torch.dtype):
        raise Refused(f"this torch has no dtype {name}")
    return kind


def named(name: str) -> Any:
    """What `module` or `module:attribute.path` names."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in filter(None, path.split(".")):
        found = getattr(found, part)
    return found


def numbers(shape: Sequence[int], kind: Any, seed: int) -> Any:
    """Normally distributed, on the CPU, the same on every machine, rounded to `kind`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(kind)


def inputs(kind: Any, *shapes: Sequence[int]) -> list[Any]:
    """One tensor of `numbers` for each shape, no two alike."""
    return [numbers(shape, kind, seed) for seed, shape in enumerate(shapes)]


def there(tensor: Any, device: str) -> Any:
    """`tensor`, which must be on `device`."""
    import torch

    wanted = torch.device(device)
    if tensor.device.type != wanted.type or wanted.index not in (None, tensor.device.index):
        raise Refused(f"the result is on {tensor.device}, not on {device}")
    return tensor


def error_of(what: str, got: Any, wanted: Any, tolerance: float) -> float:
    """Largest error relative to the largest value of `wanted` (float64, on the CPU)."""
    if got is None:
        raise Refused(f"{what} is missing")
    _same_shape(what, got, wanted)
    got = got.detach().cpu().double()
    if not got.isfinite().all():
        raise Refused(f"{what} has values that are not finite")
    wanted = wanted.detach()
    error = float((got - wanted).abs().max() / max(float(wanted.abs().max()), 1e-30))
    if error > tolerance:
        raise Refused(f"{what} is wrong: max relative error {error:.1e}, allowed {tolerance:.0e}")
    return error


def check(
    function: Function,
    reference: Function,
    tensors: Sequence[Any],
    device: str,
    tolerance: float | None = None,
) -> tuple[float, float]:
    """`function` on `device` against `reference` in float64, with the gradients of all `tensors`.

    Gives the worst error, and the milliseconds that the second of two runs took.
    """
    kind = tensors[0].dtype
    allowed = TOLERANCE[str(kind).removeprefix("torch.")] if tolerance is None else tolerance
    exact = [tensor.detach().double().clone().requires_grad_() for tensor in tensors]
    wanted = reference(*exact)
    upstream = numbers(wanted.shape, kind, 99)
    wanted.backward(upstream.double())
    with no_fallback(device):
        for _ in range(2):  # the first run also loads and compiles kernels
            begin = time.perf_counter()
            leaves = [tensor.detach().clone().to(device).requires_grad_() for tensor in tensors]
            got = there(function(*leaves), device)
            _same_shape("the result", got, wanted)
            got.backward(upstream.to(device, got.dtype))
            host = [tensor if tensor is None else tensor.cpu() for tensor in (got, *_grads(leaves))]
            ms = ms_since(begin)
    errors = [error_of("the result", host[0], wanted, allowed)]
    for number, (leaf, true) in enumerate(zip(host[1:], exact, strict=True)):
        errors.append(error_of(f"gradient {number}", leaf, true.grad, allowed))
    return max(errors), ms


def _same_shape(what: str, got: Any, wanted: Any) -> None:
    if tuple(got.shape) != tuple(wanted.shape):
        raise Refused(f"{what} has shape {tuple(got.shape)}, not {tuple(wanted.shape)}")


def _grads(leaves: Sequence[Any]) -> list[Any]:
    return [leaf.grad for leaf in leaves]


@contextlib.contextmanager
def no_fallback(device: str) -> Iterator[None]:
    """Refuse where a backend says, as a warning, that it let the CPU compute."""
    import torch

    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            yield
    finally:
        torch.set_warn_always(before)
    for warning in said:
        if not device.startswith("cpu") and _FELL_BACK.search(str(warning.message)):
            raise Refused(f"the CPU computed it: {warning.message}")


def ms_since(begin: float) -> float:
    """Milliseconds since a reading of `time.perf_counter`."""
    return (time.perf_counter() - begin) * 1000


def line(what: str, error: float, ms: float, passes: str = "forward+backward") -> str:
    """What a probe returns: the thing measured, how exact, how long."""
    return f"{what}, {passes}, max relative error {error:.1e}, {ms:.3g} ms"
