"""`accel devices` without typer, whose import (pydantic with it) takes longer than detection.

The command is asked by prompts and job scripts, so its plain forms are understood here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from accel import pipeline
from accel.cli.output import print_json, progress, table
from accel.errors import NoDevice

if TYPE_CHECKING:
    from accel.machine import Machine
    from accel.values import Device


def plain_form(arguments: Sequence[str]) -> Callable[[], None] | None:
    """What `devices [--json] [--machine NAME]` runs; None for all else: help, mistakes."""
    if arguments[:1] != ["devices"]:
        return None
    rest = list(arguments[1:])
    as_json = "--json" in rest
    if as_json:
        rest.remove("--json")
    if not rest:
        return lambda: list_devices(None, as_json)
    if len(rest) == 2 and rest[0] == "--machine" and not rest[1].startswith("-"):
        return lambda: list_devices(rest[1], as_json)
    return None


def list_devices(machine: str | None, as_json: bool) -> None:
    """Print the devices of this machine, or of a recorded one; NoDevice where there is none."""
    with progress("looking for devices"):
        host = pipeline.open_machine(machine)
        found = pipeline.devices(host)
    if as_json:
        from accel.reporting.data import device

        listed = [device(each) for each in found]
        print_json({"schema": "accel-devices/1", "machine": host.name, "devices": listed})
    elif found:
        print(_device_table(found, host))
    tell_failures()
    if not found:
        raise NoDevice(
            "no device was found, not even the host processor",
            found="no plugin answered for this machine",
            remedy="accel plugins",
        )


def _device_table(found: tuple[Device, ...], host: Machine) -> str:
    from accel.reporting.content import memory_of, plain

    rows = [
        (
            each.torch_name,
            plain(each.name),
            plain(each.vendor),
            plain(each.arch),
            memory_of(each),
            plain(each.driver or ""),
            "ready" if each.usable else "not usable",
        )
        for each in found
    ]
    lines = [table(("device", "name", "vendor", "arch", "memory", "driver", "torch"), rows)]
    problems: dict[tuple[str, str], list[str]] = {}
    for each in found:
        if each.problem:
            key = (plain(each.problem), plain(each.remedy or f"accel doctor{host.option}"))
            problems.setdefault(key, []).append(each.torch_name)
    for (problem, remedy), names in problems.items():
        lines.append(f"\n{', '.join(names)}: {problem}\n  try:   {remedy}")
    return "\n".join(lines)


def tell_failures() -> None:
    """A line on stderr for every plugin that failed so far."""
    for note in pipeline.loaded_plugins().failures:
        print(
            f"accel: {note.subject} (from {note.origin}): {note.message}\n  try:   {note.remedy}",
            file=sys.stderr,
        )
