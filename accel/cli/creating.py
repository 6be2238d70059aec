"""`accel new-plugin`: the beginning of a plugin."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Annotated

import typer


class FoundBy(str, enum.Enum):
    """What tells that the device is there."""

    PCI = "pci"
    BRIDGE = "bridge"


def new_plugin(
    name: Annotated[str, typer.Argument(help="The maker's name, in small letters.")],
    into: Annotated[
        Path, typer.Option("--into", metavar="FOLDER", help="Empty, or not there yet.")
    ] = Path(),
    kind: Annotated[
        str | None, typer.Option("--kind", help="torch's device type; the name, if not given.")
    ] = None,
    bridge: Annotated[
        str | None,
        typer.Option("--bridge", help="The distribution that brings the device to torch."),
    ] = None,
    pci: Annotated[
        str | None, typer.Option("--pci", metavar="ID", help="The maker's PCI id, as 1da3.")
    ] = None,
    found_by: Annotated[
        FoundBy,
        typer.Option("--found-by", help="A PCI card, or the bridge's being installed."),
    ] = FoundBy.PCI,
) -> None:
    """Write a plugin's package into an empty folder; as it is, it installs and passes the suite."""
    from accel.creating import new_plugin as create

    files = create(
        name,
        into,
        kind=kind,
        bridge=bridge,
        pci=pci,
        found_by=found_by.value,
    )
    for file in files:
        print(os.path.normpath(file))
    print("\npip install -e . && accel conformance", name.replace("-", "_"))
