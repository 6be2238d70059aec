"""The commands that show something and change nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel import pipeline
from accel.cli import options
from accel.cli.listing import list_devices, tell_failures
from accel.cli.output import colored, print_json, progress, quiet_log, table, write_whole
from accel.errors import AccelError, InputError
from accel.machine import Machine
from accel.values import as_json as plain_data

if TYPE_CHECKING:
    from accel.planning import Plan


def devices(machine: options.OnMachine = None, as_json: options.AsJson = False) -> None:
    """List the devices on this machine, or on a recorded one."""
    list_devices(machine, as_json)


def explain(
    machine: options.OnMachine = None,
    device: options.DeviceName = None,
    attention: options.Attention = None,
    dtype: options.Dtype = None,
    collective: options.Collective = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="text|markdown|html|json", help="Form of the report."),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe/--no-probe", help="Prove what is declared; never on a recording."),
    ] = True,
    as_json: options.AsJson = False,
) -> None:
    """Say what a device can do, what would be chosen, and why.

    Here every declared implementation is probed first; what was found is remembered.
    """
    from accel import reporting

    if as_json and form not in (None, "json"):
        raise InputError(
            f"--json and --format {form} cannot both be had",
            found="two forms for one report",
            remedy=f"accel explain --format {form}",
        )
    form = reporting.check_format("json" if as_json else form or "text")
    planned = _planned(machine, device, probe, attention, dtype, collective)
    if form == "text":
        print(reporting.as_text(planned, color=colored(sys.stdout)))
    else:
        print(reporting.render(planned, form))


def plan(
    machine: options.OnMachine = None,
    device: options.DeviceName = None,
    attention: options.Attention = None,
    dtype: options.Dtype = None,
    collective: options.Collective = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what auto() would choose and patch; only the choice itself is probed."""
    from accel import reporting

    planned = _planned(machine, device, None, attention, dtype, collective)
    if as_json:
        print_json(planned.to_json())
    else:
        print(reporting.as_text(planned, brief=True, color=colored(sys.stdout)))


def plugins(as_json: options.AsJson = False) -> None:
    """List the plugins, where each comes from, and what is wrong with those that failed."""
    with progress("loading plugins"):
        infos = pipeline.plugins()
    if as_json:
        print_json({"schema": "accel-plugins/1", "plugins": plain_data(infos)})
        return
    rows = [(i.name, i.status, f"{i.distribution} {i.version}", i.value, i.problem) for i in infos]
    print(table(("plugin", "status", "distribution", "module", "problem"), rows))


def record(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file, instead of stdout.")
    ] = None,
    machine: options.OnMachine = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Record nothing: list the machines that are recorded.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: print JSON.")] = False,
) -> None:
    """Record this machine as JSON: what detection asked and was answered, nothing private.

    `accel explain --machine FILE` explains it anywhere. A recording is JSON without --json.
    """
    import json

    from accel.recording import record as recorded

    if listed:
        _list_recorded(machine, output, as_json)
        return
    with progress("recording"), quiet_log():
        document = recorded(pipeline.open_machine(machine), _ask_everything)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    tell_failures()
    if output is None:
        sys.stdout.write(text)
    else:
        write_whole(output, text)
        print(f"accel: wrote {output} ({len(text.encode()) >> 10} kB)", file=sys.stderr)


def doctor(
    machine: options.OnMachine = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Show what can be mended, ask, and do it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --fix: do not ask.")] = False,
    env_file: Annotated[
        Path, typer.Option("--env-file", help="With --fix: where variables are written.")
    ] = Path("accel-env.sh"),
    as_json: options.AsJson = False,
) -> None:
    """Find what is wrong with this machine's setup, and the command that mends it.

    Ends with 0 only where nothing is. Works when `import torch` itself fails. With --fix,
    variables go into a file to source, and pip runs in this environment; nothing else is touched.
    """
    from accel.cli import mending

    code = mending.doctor(machine, fix=fix, yes=yes, env_file=env_file, as_json=as_json)
    if code != 0:
        raise typer.Exit(code)


def _planned(
    machine: str | None, device: str | None, probe: bool | None, *choices: str | None
) -> Plan:
    names = ("attention", "dtype", "collective")
    wanted: dict[str, Any] = {
        name: choice for name, choice in zip(names, choices, strict=True) if choice
    }
    with progress("finding out what can be had"), quiet_log():
        host = pipeline.open_machine(machine)
        return pipeline.plan(device, machine=host, probe=probe and host.is_here, **wanted)


def _list_recorded(machine: str | None, output: Path | None, as_json: bool) -> None:
    """What `--machine` takes by name: the recordings of accel and of the installed plugins."""
    from accel import testing

    if machine is not None or output is not None:
        raise InputError(
            "--list records nothing",
            found=f"--list with {'--output' if machine is None else '--machine'}",
            remedy="accel record --list",
        )
    found = [testing.machine(name) for name in testing.machines()]
    if as_json:
        rows = [{"name": one.name, "kind": one.kind, "title": one.title} for one in found]
        print_json({"schema": "accel-machines/1", "machines": rows})
    else:
        cells = [(one.name, one.kind, one.title) for one in found]
        print(table(("machine", "kind", "title"), cells))


def _ask_everything(machine: Machine) -> None:
    """Ask what any later call may ask: a plan for the machine, and for one device of each sort."""
    found = pipeline.devices(machine)
    sorts = {(each.vendor, each.kind, each.arch): each for each in found if each.usable}
    for name in (None, *(each.torch_name for each in sorts.values())):
        try:
            pipeline.plan(name, machine=machine, probe=False)
        except AccelError as error:
            # Recorded all the same: what cannot be planned for is what a recording is sent in for.
            print(f"accel: recorded, though: {error}", file=sys.stderr)
