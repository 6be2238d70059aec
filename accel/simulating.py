"""Machines that are not here: `ACCEL_SIMULATE` names one that is to stand in for this one.

The variable travels to children as any other, so a data loader's worker, a rank and a probe's child
see what their parent saw. Who provides the machine, and the torch device that goes with it, is a
plugin (hooks `accel_machine` and `accel_simulate`); nothing here knows which.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from accel.errors import AccelError, PluginContractError
from accel.machine import Machine, ThisMachine

if TYPE_CHECKING:
    from accel.loading import Plugins

SIMULATE = "ACCEL_SIMULATE"
"""`NAME` or `NAME:COUNT`: the machine that this process and its children are to see."""

_lock = threading.Lock()
_standing_in: dict[str, Machine] = {}


def _after_fork() -> None:
    """A thread that held the lock is not in the child, and would never let go of it there."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def host(known: Plugins) -> Machine:
    """This machine, or the one that stands in for it.

    Raises AccelError where a machine is to be simulated and cannot be: never this one instead.
    """
    this = ThisMachine()
    spec = this.env(SIMULATE)
    if not spec:
        return this
    with _lock:
        if spec not in _standing_in:
            _standing_in[spec] = _provided(known, spec, this)
        return _standing_in[spec]


def forget() -> None:
    """Ask the plugins again: another simulation may want the same name with other faults."""
    with _lock:
        _standing_in.clear()


def provider(
    known: Plugins, name: str, count: int | None, fault: str | None
) -> AbstractContextManager[Machine]:
    """What simulates the machine `name` while it is entered. AccelError where nothing can."""
    for answer in known.call("accel_simulate", name=name, count=count, fault=fault):
        if isinstance(answer.value, AccelError):
            raise answer.value
        if isinstance(answer.value, AbstractContextManager):
            return answer.value
        if answer.value is not None:
            raise _nonsense(answer.owner, "accel_simulate", answer.value)
    raise _nobody(known, name)


def _provided(known: Plugins, spec: str, this: Machine) -> Machine:
    for answer in known.call("accel_machine", simulated=spec, machine=this):
        if isinstance(answer.value, AccelError):
            raise answer.value
        if isinstance(answer.value, Machine):
            return answer.value
        if answer.value is not None:
            raise _nonsense(answer.owner, "accel_machine", answer.value)
    raise _nobody(known, spec)


def _nonsense(owner: str, hook: str, value: object) -> PluginContractError:
    return PluginContractError(
        f"plugin {owner} answered {hook} with {type(value).__name__}",
        found=repr(value)[:80],
        remedy=f"ACCEL_DISABLE_PLUGINS={owner} leaves it out",
    )


def _nobody(known: Plugins, spec: str) -> AccelError:
    said = "; ".join(f"{note.subject}: {note.message}" for note in known.failures)
    return AccelError(
        f"{spec!r} cannot be simulated: no plugin here provides it",
        found=said or "no plugin that simulates machines",
        remedy=f"accel plugins, or unset {SIMULATE}",
    )
