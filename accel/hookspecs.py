"""The contract between accel and its plugins: a plugin implements any of these nine.

Mark an implementation with `accel.hookimpl` and name the module (or object) in the entry-point
group `accel`. No hook may import torch, except through a Probe, a Patch or a command it returns.

The two markers write what pluggy's `HookspecMarker("accel")` and `HookimplMarker("accel")` write,
which may be used as well; pluggy itself is imported only where a plugin is irregular (hooks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any, TypeVar

    from accel.errors import AccelError
    from accel.machine import Machine
    from accel.report import Report
    from accel.resolving import Capabilities
    from accel.troubles import Finding
    from accel.values import Device, Impl, Patch

    F = TypeVar("F", bound=Callable[..., Any])

PROJECT = "accel"


def hookspec(function: F) -> F:
    """Mark a function of this module as a hook that plugins may implement."""
    options = {"firstresult": False, "historic": False}
    setattr(
        function, f"{PROJECT}_spec", {**options, "warn_on_impl": None, "warn_on_impl_args": None}
    )
    return function


def hookimpl(
    function: F | None = None,
    hookwrapper: bool = False,
    optionalhook: bool = False,
    tryfirst: bool = False,
    trylast: bool = False,
    specname: str | None = None,
    wrapper: bool = False,
) -> Any:
    """Mark a plugin's function as a hook; with pluggy's options, as pluggy's own marker does."""

    def mark(function: F) -> F:
        options = {
            "hookwrapper": hookwrapper,
            "optionalhook": optionalhook,
            "tryfirst": tryfirst,
            "trylast": trylast,
            "specname": specname,
            "wrapper": wrapper,
        }
        setattr(function, f"{PROJECT}_impl", options)
        return function

    return mark if function is None else mark(function)


@hookspec
def accel_detect(machine: Machine) -> Iterable[Device]:  # type: ignore[empty-body]
    """Devices of this plugin's own that are on `machine`. Ask the machine for everything."""


@hookspec
def accel_select(devices: Sequence[Device], machine: Machine) -> Device | None:
    """The device to use when the user named none, or None for no opinion. First answer wins."""


@hookspec
def accel_capabilities(device: Device, machine: Machine) -> Iterable[Impl]:  # type: ignore[empty-body]
    """What can be had on `device`. Asked of its owner, and of plugins that detect nothing."""


@hookspec
def accel_patches(  # type: ignore[empty-body]
    device: Device, capabilities: Capabilities, machine: Machine
) -> Iterable[Patch]:
    """Repairs needed so that libraries use `device` as it really is."""


@hookspec
def accel_doctor(machine: Machine, devices: Sequence[Device]) -> Iterable[Finding]:  # type: ignore[empty-body]
    """What is wrong with the setup of `machine`, of which `devices` is all that was found."""


@hookspec
def accel_commands(app: Any) -> None:
    """Add commands to `app`, the typer application behind the `accel` command."""


@hookspec
def accel_report(report: Report) -> None:
    """Told once the report of an `auto()` is complete."""


@hookspec
def accel_machine(simulated: str, machine: Machine) -> Machine | AccelError | None:
    """The machine that is to stand in for `machine`: `simulated` is the value of ACCEL_SIMULATE.

    None where this plugin simulates nothing, an AccelError where it cannot. First answer wins.
    """


@hookspec
def accel_simulate(
    name: str, count: int | None, fault: str | None
) -> AbstractContextManager[Machine] | AccelError | None:
    """A context in which this process and its children are on the machine `name`.

    `count` devices of it, or as many as it has; `fault` is what goes wrong. First answer wins.
    """
