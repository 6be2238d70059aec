"""What the tests of redirected names share and is no fixture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from accel.machine import ThisMachine
from accel.resolving import Capabilities
from accel.values import Device, Feature, Impl


def capabilities(
    *dtypes: str, kind: str = "cpu", strict: bool = False, collective: str = "gloo"
) -> Capabilities:
    """An invented device that has these dtypes, best first."""
    device = Device(vendor="nobody", name="Test Card", kind=kind, arch="test_1", memory=2**30)
    impls = [
        Impl(feature=Feature.DTYPE, name=name, priority=100 - order)
        for order, name in enumerate(dtypes or ("bfloat16", "float32"))
    ]
    impls.append(Impl(feature=Feature.COLLECTIVE, name=collective, priority=10))
    return Capabilities(device, impls, ThisMachine(), strict=strict)


@contextlib.contextmanager
def redirected(given: Capabilities | None = None) -> Iterator[Capabilities]:
    """CUDA's names mean the CPU inside."""
    from accel_frameworks.torch.redirecting import redirect

    given = given or capabilities()
    undo = redirect(given)
    try:
        yield given
    finally:
        undo()


def script(source: str, **names: Any) -> dict[str, Any]:
    """Run `source` as a user's script would be: not from an installed library, not as accel."""
    space: dict[str, Any] = {"__name__": "__main__", **names}
    exec(compile(source, "<script>", "exec"), space)
    return space
