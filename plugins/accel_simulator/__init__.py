"""Devices that are not here: any recorded machine, with a torch device that computes on the host.

`ACCEL_SIMULATE=NAME[:COUNT]` has this process and its children see the machine; `accel simulate`
and `accel.testing.simulated` set it. torch's own door for backends (`accel_simulator.autoload`)
puts the device into every process that imports torch. Nothing in this module imports torch.
"""

from __future__ import annotations

from accel.errors import AccelError
from accel.hookspecs import hookimpl

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import typer

    from accel.machine import Machine


@hookimpl
def accel_machine(simulated: str, machine: Machine) -> Machine | AccelError:
    """The recorded machine that `simulated` names, over what is installed here."""
    from accel_simulator.faults import parse
    from accel_simulator.machine import SimulatedMachine
    from accel_simulator.naming import parse_spec

    try:
        chosen = parse_spec(simulated)
        return SimulatedMachine.of(chosen, machine, parse(machine.env("ACCEL_SIMULATE_FAULT")))
    except AccelError as error:
        return error


@hookimpl
def accel_simulate(
    name: str, count: int | None, fault: str | None
) -> AbstractContextManager[Machine] | AccelError:
    """The simulation of `name` in this process, until its context is left."""
    from accel_simulator.context import Simulation

    try:
        return Simulation(name, count, fault)
    except AccelError as error:
        return error


@hookimpl
def accel_commands(app: typer.Typer) -> None:
    """Add `accel simulate`."""
    from accel_simulator.command import add_to

    add_to(app)
