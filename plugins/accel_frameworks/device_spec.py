"""`accel device-spec`: transformers' own tests as a client."""

from __future__ import annotations

from accel.hookspecs import hookimpl

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any


@hookimpl
def accel_commands(app: Any) -> None:
    """Add `accel device-spec`; what it needs is imported only where commands are asked for."""
    from accel_frameworks.device_spec_command import device_spec

    app.command("device-spec")(device_spec)
