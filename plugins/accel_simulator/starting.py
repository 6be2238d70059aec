"""Puts the simulated devices into torch: the backend in C++, and torch's modules above it.

Called once torch is imported, by torch's own door for backends or by the context manager.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import gc
import sys
import time
from collections.abc import Callable
from typing import Any

from accel.errors import AccelError
from accel_simulator import building, collectives
from accel_simulator.cards import Card, cards_of
from accel_simulator.changes import Changes
from accel_simulator.machine import SimulatedMachine
from accel_simulator.standins import folders

BUILT_IN = ("cuda", "xpu")
SECONDS_TO_LET_GO = 0.1
SPEED = "accel: {title}: simulated, computed on this machine's processor; speed is not simulated"


@dataclasses.dataclass
class State:
    """The simulation that is on in this process."""

    machine: SimulatedMachine
    cards: tuple[Card, ...]
    changes: Changes


_state: State | None = None
_own_kind: str | None = None
"""The one torch type of its own that this process has simulated: torch takes one name for good."""
_built_in_kind: str | None = None
"""The same of the types that torch itself has a module for: it refuses to have two of them."""


def state() -> State | None:
    """The simulation that is on in this process, or None."""
    return _state


def start(machine: SimulatedMachine, progress: Callable[[str], None] = lambda line: None) -> State:
    """Put the devices of `machine` into torch. Raises AccelError where that cannot be.

    With no device that torch could use, nothing is put there: as on the machine itself.
    """
    global _state
    if _state is not None:
        raise AccelError(
            f"{machine.chosen.spec} cannot be simulated in this process",
            found=f"{_state.machine.chosen.spec} is being simulated",
            remedy="leave that simulation first",
        )
    cards = cards_of(machine)
    changes = Changes()
    try:
        if cards:
            extension = building.load(progress)
            _check_autograd(cards, extension, machine)
            for card in cards:
                _start(card, extension, changes, machine)
            _path(cards, changes)
            _let_go_at_exit()
    except BaseException:
        changes.revert()
        raise
    _state = State(machine, cards, changes)
    return _state


def stop() -> None:
    """Take the devices away again. A tensor that is left on one can only be freed."""
    global _state
    if _state is not None:
        _state.changes.revert()
        _state = None


def _let_go() -> None:
    """Let torch's threads for the device, and gloo's, drop the last of their work.

    One that gives up a Python tensor while the interpreter is ending aborts the process
    ("terminate called without an active exception"). A card's context takes longer to end.
    """
    gc.collect()
    time.sleep(SECONDS_TO_LET_GO)


@functools.cache
def _let_go_at_exit() -> None:
    atexit.register(_let_go)


def _start(card: Card, extension: Any, changes: Changes, machine: SimulatedMachine) -> None:
    import torch

    if card.kind in BUILT_IN:
        _take_place(card.kind)
    else:
        _take_name(card.kind)
    extension.open(
        card.kind,
        {
            "name": card.first.name,
            "lost_error": card.words["lost_error"],
            "lost_code": card.words["lost_code"],
            "memory_word": card.words["memory_word"],
            "allocator_setting": card.words["allocator_setting"],
            "attention": list(card.attention),
            "attention_error": card.attention_error,
            "attention_dtypes": [getattr(torch, name) for name in card.attention_dtypes],
            "refused": [(getattr(torch, r.dtype), r.message, r.products) for r in card.refused],
            "capacities": [device.memory or 2**34 for device in card.devices],
        },
    )
    changes.also(lambda: extension.close(card.kind))
    for fault, after in machine.faults.counts:
        extension.set_fault(card.kind, fault, after)
    _modules(card, extension, changes)
    collectives.register(card, extension, changes)


def _path(cards: tuple[Card, ...], changes: Changes) -> None:
    """The stand-ins for the vendors' modules, where a parent has not put them on the path yet."""
    for folder in folders(card.kind for card in cards):
        if folder not in sys.path:
            sys.path.append(folder)
            changes.also(lambda folder=folder: sys.path.remove(folder))  # type: ignore[misc]


def _modules(card: Card, extension: Any, changes: Changes) -> None:
    """torch's own module for the device, speaking for the card."""
    if card.kind == "cuda":
        from accel_simulator import cuda

        cuda.install(card, extension, changes)
    elif card.kind == "xpu":
        from accel_simulator import xpu

        xpu.install(card, extension, changes)
    else:
        from accel_simulator import own

        own.install(card, extension, changes)


def _check_autograd(cards: tuple[Card, ...], extension: Any, machine: SimulatedMachine) -> None:
    """Raise AccelError where a backward() on these devices would end in an assertion of torch's."""
    counted: int | None = extension.devices_of_autograd()
    wanted = max(len(card.devices) for card in cards)
    if counted is not None and counted < wanted:
        spec = machine.chosen.spec
        raise AccelError(
            f"{spec} cannot be simulated in this process any more",
            found=f"torch's autograd saw {counted} devices at this process's first backward(), and "
            f"serves no other; {wanted} are wanted, before it",
            remedy=f"accel simulate {spec} -- COMMAND",
        )


def _take_place(kind: str) -> None:
    """torch takes one accelerator that it has a module for: `Cannot have both XPU and cuda`.

    One with a name of its own is its accelerator for good: a backward() elsewhere would ask that.
    """
    global _built_in_kind
    if _built_in_kind in (None, kind) and _own_kind is None:
        _built_in_kind = kind
        return
    before = _built_in_kind if _own_kind is None else _own_kind
    raise AccelError(
        f"{kind} cannot be simulated in this process",
        found=f"{before} was, and torch cannot have both",
        remedy="simulate it in a process of its own",
    )


def _take_name(kind: str) -> None:
    """PrivateUse1 becomes `kind`; a process can do that once."""
    global _own_kind
    import torch

    if _own_kind is None:
        try:
            torch.utils.rename_privateuse1_backend(kind)
        except RuntimeError as error:
            raise AccelError(
                f"{kind} cannot be simulated in this process",
                found=str(error).splitlines()[0],
                remedy="a process in which no other backend of torch has been loaded",
            ) from None
        _own_kind = kind
    elif _own_kind != kind:
        raise AccelError(
            f"{kind} cannot be simulated in this process",
            found=f"{_own_kind} was, and torch takes one name of a device type for good",
            remedy="simulate it in a process of its own",
        )


def announce(started: State) -> None:
    """Say once, on stderr, that nothing here is a measurement."""
    print(SPEED.format(title=started.machine.title), file=sys.stderr, flush=True)
