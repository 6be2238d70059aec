"""torch's own door: the simulated device in every process that imports torch.

torch calls the entry points of the group `torch.backends` at the end of `import torch`. This one
is inert without `ACCEL_SIMULATE`, and whatever happens inside it, `import torch` goes on.
"""

from __future__ import annotations

import os

SIMULATE = "ACCEL_SIMULATE"
QUIET = "ACCEL_SIMULATE_QUIET"
"""Set in children by the process that has already said that speed is not simulated."""


def load() -> None:
    """Put the device that `ACCEL_SIMULATE` names into torch. Never raises."""
    if not os.environ.get(SIMULATE):
        return
    import sys

    try:
        _load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - `import torch` must not fail for it
        text = " · ".join(line.strip() for line in str(error).splitlines() if line.strip())
        print(
            f"accel: {os.environ[SIMULATE]} is NOT simulated: {type(error).__name__}: {text}",
            file=sys.stderr,
            flush=True,
        )


def _load() -> None:
    import sys

    from accel import simulating
    from accel.errors import AccelError
    from accel.pipeline import loaded_plugins
    from accel_simulator import starting
    from accel_simulator.machine import SimulatedMachine

    machine = simulating.host(loaded_plugins())
    if not isinstance(machine, SimulatedMachine):
        raise AccelError(
            f"another plugin provides {machine.name}",
            remedy="ACCEL_DISABLE_PLUGINS with the name of the other plugin",
        )
    started = starting.start(machine, lambda line: print(f"accel: {line}", file=sys.stderr))
    if started.cards and not os.environ.get(QUIET):
        starting.announce(started)
    os.environ[QUIET] = "1"
