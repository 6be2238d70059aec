"""The context manager behind `accel.testing.simulated`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from accel.errors import AccelError
from accel.machine import Machine
from accel_simulator import faults
from accel_simulator.autoload import QUIET, SIMULATE
from accel_simulator.machine import SimulatedMachine
from accel_simulator.naming import choose, parse_spec
from accel_simulator.standins import python_path

if TYPE_CHECKING:
    from accel_simulator.starting import State


class Simulation(AbstractContextManager[Machine]):
    """A machine that this process and the children it starts are on, while it is entered."""

    def __init__(self, name: str, count: int | None, fault: str | None) -> None:
        """Raises InputError for a name or a fault that is none; nothing is started yet."""
        self._chosen = choose(name, count) if count is not None else parse_spec(name)
        self._faults = faults.parse(fault)
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> Machine:
        from accel import simulating
        from accel.pipeline import loaded_plugins

        if os.environ.get(SIMULATE):
            raise AccelError(
                f"{self._chosen.spec} cannot be simulated in this process",
                found=f"{SIMULATE}={os.environ[SIMULATE]} is in force",
                remedy="leave that simulation first",
            )
        self._set({SIMULATE: self._chosen.spec, faults.VARIABLE: self._faults.text or None})
        self._set({QUIET: "1"})
        try:
            machine = simulating.host(loaded_plugins())
            assert isinstance(machine, SimulatedMachine)
            kinds = [card.kind for card in self._start(machine).cards]
            self._set({"PYTHONPATH": python_path(os.environ.get("PYTHONPATH"), kinds)})
        except BaseException:
            self._restore()
            raise
        return machine

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from accel_simulator import starting

        starting.stop()
        self._restore()

    def _start(self, machine: SimulatedMachine) -> State:
        import torch  # noqa: F401 - the first import starts the simulation by torch's own door

        from accel_simulator import starting

        # that door only reports what goes wrong; here it is raised
        return starting.state() or starting.start(machine)

    def _set(self, values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            self._before.setdefault(name, os.environ.get(name))
            _put(name, value)

    def _restore(self) -> None:
        from accel import simulating

        for name, value in self._before.items():
            _put(name, value)
        self._before.clear()
        simulating.forget()


def _put(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
