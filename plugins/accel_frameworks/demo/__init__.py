"""`accel demo`: a small model learns who it is, on whatever accelerator is there."""

from __future__ import annotations

from accel.hookspecs import hookimpl

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    import typer


@hookimpl
def accel_commands(app: typer.Typer) -> None:
    """Add `accel demo`."""
    from accel_frameworks.demo.command import demo

    app.command("demo")(demo)
