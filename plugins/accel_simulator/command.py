"""`accel simulate MACHINE -- COMMAND`: a command and its children, on a machine not here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.errors import InputError

if TYPE_CHECKING:
    from accel_simulator.naming import Chosen


def add_to(app: typer.Typer) -> None:
    """Register the command; what stands after `--` goes through unread."""
    app.command(
        "simulate",
        context_settings={"allow_interspersed_args": False},
    )(simulate)


def simulate(
    machine: Annotated[
        str,
        typer.Argument(
            metavar="MACHINE", help="A recorded machine's name, or short for one; :N devices of it."
        ),
    ] = "",
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND", help="What to run on it.")
    ] = None,
    fault: Annotated[
        str | None,
        typer.Option(help="What goes wrong: lost:N, memory:N, timeout:N, driver=slow|nonsense."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Without a command: what can be simulated, as JSON.")
    ] = False,
) -> int:
    """Run COMMAND as if the accelerators of MACHINE were here; without COMMAND, say what they are.

    torch computes on this machine's processor: results are real, speed is not simulated.
    """
    from accel_simulator import faults
    from accel_simulator.naming import parse_spec

    if not machine and not command:
        return _list(as_json)
    chosen = parse_spec(machine)
    wrong = faults.parse(fault)
    if not command:
        return _show(chosen.spec, as_json)
    command = _found(command)
    kinds = _prepared(chosen)
    environment = _environment(chosen.spec, wrong.text, kinds)
    _beside_others(chosen.spec, environment, kinds)
    return _run(command, environment)


def _list(as_json: bool) -> int:
    """The machines that can be simulated."""
    from accel import testing
    from accel.cli.output import print_json
    from accel_simulator.cards import simulatable

    names = [name for name in testing.machines() if simulatable(testing.machine(name))]
    if as_json:
        print_json([{"name": n, "title": testing.machine(n).title} for n in names])
        return 0
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {testing.machine(name).title}")
    return 0


def _show(spec: str, as_json: bool) -> int:
    """The devices that torch would see there."""
    from accel.cli.output import print_json
    from accel.errors import AccelError
    from accel.machine import ThisMachine
    from accel.values import as_json as plain
    from accel_simulator.cards import cards_of
    from accel_simulator.machine import SimulatedMachine
    from accel_simulator.naming import parse_spec

    machine = SimulatedMachine.of(parse_spec(spec), ThisMachine())
    cards = cards_of(machine)
    if as_json:
        print_json([plain(device) for card in cards for device in card.devices])
        return 0
    if not cards:
        raise AccelError(
            f"torch would find no device on {spec}",
            found="none that is usable as things stand there",
            remedy=f"accel explain --machine {machine.chosen.machine}",
        )
    for card in cards:
        for device in card.devices:
            memory = f", {device.memory / 2**30:.1f} GiB" if device.memory else ""
            print(f"{device.torch_name}  {device.name} ({device.arch}){memory}")
    print(f"run something there: accel simulate {spec} -- python train.py")
    return 0


def _found(command: list[str]) -> list[str]:
    """The command, its program looked up: `accel` and `python` are this environment's own."""
    if command[0] == "--":
        command = command[1:]
    if not command:
        raise InputError(
            "there is no command after --", remedy="accel simulate MACHINE -- python train.py"
        )
    program = command[0]
    if program == "accel":
        return [sys.executable, "-m", "accel", *command[1:]]
    if program in ("python", "python3"):
        return [sys.executable, *command[1:]]
    beside = os.path.join(os.path.dirname(sys.executable), program)
    path = beside if os.access(beside, os.X_OK) else shutil.which(program)
    if path is None:
        raise _no_command(program)
    return [path, *command[1:]]


def _no_command(program: str) -> InputError:
    found = "nothing of that name beside this Python, or on PATH"
    remedy = f"pip install {program}"
    if program.endswith(".py"):
        remedy = f"accel simulate MACHINE -- python {program}"
    elif os.sep in program or not program:
        found = "nothing there that can be run"
        remedy = f"ls -ld {program!r}"
    return InputError(f"there is no command {program!r}", found=found, remedy=remedy)


def _prepared(chosen: Chosen) -> list[str]:
    """The torch device types there; what they need is built, where somebody can be told of it."""
    from accel.machine import ThisMachine
    from accel_simulator import building
    from accel_simulator.cards import cards_of
    from accel_simulator.machine import SimulatedMachine

    cards = cards_of(SimulatedMachine.of(chosen, ThisMachine()))
    if cards:
        building.built(lambda line: print(f"accel: {line}", file=sys.stderr, flush=True))
    return [card.kind for card in cards]


def _environment(spec: str, fault: str, kinds: list[str]) -> dict[str, str]:
    from accel_simulator import faults
    from accel_simulator.autoload import SIMULATE
    from accel_simulator.standins import python_path

    path = python_path(os.environ.get("PYTHONPATH"), kinds)
    changed = {SIMULATE: spec, faults.VARIABLE: fault or None, "PYTHONPATH": path}
    kept = {name: value for name, value in os.environ.items() if name not in changed}
    return {**kept, **{name: value for name, value in changed.items() if value is not None}}


def _beside_others(spec: str, environment: dict[str, str], kinds: list[str]) -> None:
    """Raise InputError where another installed backend has the one place that torch has for both.

    Found out in a child that imports torch, where there is another backend at all. Without this the
    command would run on that backend's device, or on none.
    """
    from importlib.metadata import entry_points

    from accel_simulator.autoload import QUIET

    points = entry_points(group="torch.backends")
    others = {point.dist.name for point in points if point.dist and point.module[:5] != "accel"}
    if not others or {"cuda", "xpu"}.issuperset(kinds):
        return
    done = subprocess.run(
        [sys.executable, "-c", "import torch"],
        env={**environment, QUIET: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    said = [text for line in lines if (text := line.partition("is NOT simulated: ")[2])]
    if said or done.returncode:
        raise InputError(
            f"{spec} cannot be simulated beside {', '.join(sorted(others))}",
            found=(said or lines)[-1],
            remedy=f"pip uninstall {min(others)}, or an environment without it",
        )


def _run(command: list[str], environment: dict[str, str]) -> int:
    """The command in this process's place as far as signals go; its exit code."""
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise InputError(
            f"{command[0]!r} cannot be run", found=str(error), remedy=f"file {command[0]}"
        ) from None

    def pass_on(number: int, frame: Any) -> None:
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                continue  # the terminal sent it to the command as well, which ends as it likes
    finally:
        signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code
