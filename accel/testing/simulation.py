"""`simulated`: a machine that is not here, with a torch device that computes on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accel.machine import Machine


@contextmanager
def simulated(
    name: str, *, count: int | None = None, fault: str | None = None
) -> Iterator[Machine]:
    """Within it, this process and its children are on the machine `name`, and yields that machine.

        with accel.testing.simulated("two-vendors", count=2):
            report = accel.auto()
            torch.ones(3, device=report.torch_device)

    `name` is a recorded machine's, or short for one; `count` devices of it, else as many as a name
    that ends in `-x8` says, else one. `fault` is what goes wrong there, as in
    `ACCEL_SIMULATE_FAULT`. torch computes on the host's processor; speed is not simulated. On the
    way out the device is gone again, and a tensor that is left on it can only be freed.

    Enter it before this process's first `backward()`: torch's autograd counts the devices then, and
    ends with INTERNAL ASSERT FAILED on one that came later. So that is an AccelError here.

    Raises InputError for a name that is none (with the names that are near) and AccelError where
    the device cannot be built, where the first `backward()` saw fewer devices, or where another
    device of a torch type that a process can have only once was simulated in this process before.
    """
    from accel.pipeline import loaded_plugins
    from accel.simulating import provider

    with provider(loaded_plugins(), name, count, fault) as machine:
        yield machine
