"""`accel demo`: a small model learns who it is, on whatever accelerator is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accel import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def accel_commands(app: typer.Typer) -> None:
    """Add `accel demo`."""
    from accel_frameworks.demo.command import demo

    app.command("demo")(demo)
