"""Options that several commands share, as typer has them."""

from __future__ import annotations

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OnMachine = Annotated[
    str | None,
    typer.Option(
        "--machine", metavar="NAME|FILE", help="A recorded machine, by name or as a JSON file."
    ),
]
DeviceName = Annotated[
    str | None,
    typer.Option("--device", help="As torch, a vendor, a family or an architecture calls it."),
]
Attention = Annotated[str | None, typer.Option("--attention", help="Attention by name.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="Dtype to train in.")]
Collective = Annotated[str | None, typer.Option("--collective", help="Collective backend.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="What cannot be had is an error, never a downgrade.")
]
