"""The typer application: accel's own commands, and those that plugins add."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

import accel
from accel.cli import commands, conforming, creating, running
from accel.errors import InputError
from accel.loading import Plugins

OWN: dict[str, Callable[..., int | None]] = {
    "devices": commands.devices,
    "explain": commands.explain,
    "plan": commands.plan,
    "plugins": commands.plugins,
    "record": commands.record,
    "doctor": commands.doctor,
    "conformance": conforming.conformance,
    "matrix": conforming.matrix,
    "new-plugin": creating.new_plugin,
}
_UsageError: Any = typer.BadParameter.__base__
"""click's, wherever this typer keeps its click."""


def invoke(arguments: list[str]) -> int:
    """Run one command line. AccelErrors and a command's own exceptions pass through."""
    arguments = arguments or ["--help"]
    group = _group(arguments, lambda problem: print(f"accel: {problem}", file=sys.stderr))
    try:
        result = group.main(args=arguments, prog_name="accel", standalone_mode=False)
    except _UsageError as error:
        raise _usage(error, arguments) from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    # What a command returns is its exit code, if it is one.
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def takes_json(arguments: list[str]) -> bool:
    """Whether `--json` in a command line is the option of accel's command, not another's."""
    name = _command(arguments)
    group = _group(arguments, lambda problem: None)
    command = group.commands.get(name)
    if command is None:
        return False
    option = next((each for each in command.params if "--json" in each.opts), None)
    if option is None:
        return False
    rest = arguments[arguments.index(name) + 1 :] if name else []
    if command.context_settings.get("allow_interspersed_args", True):
        return "--json" in rest[: rest.index("--") if "--" in rest else None]
    # what stands after the first argument is another command's
    parsed = command.make_context(name, rest, resilient_parsing=True).params
    return bool(parsed.get(option.name))


def _command(arguments: list[str]) -> str | None:
    return next((text for text in arguments if not text.startswith("-")), None)


def _group(arguments: list[str], tell: Callable[[str], None]) -> Any:
    """The application as a group, with the plugins' commands where one of them may be meant."""
    command = _command(arguments)
    app = build(command)
    if command not in {*OWN, "run"} and (command or "--help" in arguments):
        from accel.pipeline import loaded_plugins

        for problem in add_plugin_commands(app, loaded_plugins()):
            tell(problem)
    return typer.main.get_command(app)


def build(command: str | None = None) -> typer.Typer:
    """The application with accel's own commands, or with the one that is asked for.

    typer makes a pydantic adapter for every parameter of every command that an application has.
    """
    app = typer.Typer(
        help="See and use whatever accelerator is there.",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(_options)
    for name, function in OWN.items():
        if command in (name, None) or command not in {*OWN, "run"}:
            app.command(name)(function)
    if command not in OWN:
        # What stands after the script is the script's own, options too.
        app.command("run", context_settings={"allow_interspersed_args": False})(running.run)
    return app


def add_plugin_commands(app: typer.Typer, known: Plugins) -> Iterable[str]:
    """Add the plugins' commands to `app`; yields a line for each plugin whose commands failed.

    Each plugin gets an application of its own, so that a broken one spoils nothing.
    """
    before = len(known.failures)
    taken = {*OWN, "run"}
    names = [info.name for info in known.infos if info.status == "loaded"]
    for name in filter(lambda name: known.implements(name, "accel_commands"), names):
        own = typer.Typer()
        if not known.call("accel_commands", only=name.__eq__, app=own):
            continue
        try:
            # A group even where there is one command, so that its name is kept.
            own.callback()(lambda: None)
            added: Any = typer.main.get_group(own)
            new = set(added.commands)
        except Exception as error:  # noqa: BLE001 - typer raises what the plugin's function provokes
            known.fail(name, f"added a command that cannot be built: {error}")
            continue
        if new & taken:
            known.fail(name, f"added a command that is there already: {', '.join(new & taken)}")
            continue
        taken |= new
        app.registered_commands += own.registered_commands
        app.registered_groups += own.registered_groups
    for info in known.infos:
        if info.status == "failed":
            yield f"plugin {info.name} (from {info.distribution} {info.version}): {info.problem}"
    for note in known.failures[before:]:
        yield f"{note.subject} (from {note.origin}): {note.message}"


def _usage(error: Any, arguments: list[str]) -> InputError:
    name = _command(arguments)
    where = error.ctx.command_path if error.ctx else f"accel {name}" if name in OWN else "accel"
    return InputError(error.format_message(), remedy=f"{where} --help")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"accel {accel.__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """See and use whatever accelerator is there.

    `accel COMMAND --help` has the options of each command.
    """
