"""A request that the device or the environment cannot honour: off or replaced, said, or refused."""

from __future__ import annotations

from accel.errors import CapabilityUnavailable
from accel.values import Feature, Level, Note

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from accel.resolving import Capabilities

STRICTLY = "strict=True makes this an error"


def instead(
    capabilities: Capabilities, asked_by: str, *, use: str, reason: str, remedy: str = ""
) -> None:
    """Say that `use` takes the place of what `asked_by` asked for.

    Raises CapabilityUnavailable under `strict`.
    """
    device = capabilities.device
    if capabilities.strict:
        raise CapabilityUnavailable(
            f"{asked_by} cannot be had on {device.name} ({device.arch})",
            found=reason,
            remedy=remedy or f"leave it out; what comes of it without strict: {use}",
        )
    capabilities.note(
        Note(
            level=Level.DOWNGRADE,
            subject=asked_by,
            message=f"{use} on {device.name}: {reason}",
            remedy=remedy or STRICTLY,
            origin="accel_frameworks",
        )
    )


def refusal(capabilities: Capabilities, feature: Feature, name: str) -> str | None:
    """Why the device does not have it; None where it does, or where nothing is known of it."""
    if not capabilities.of(feature):
        return None
    found = capabilities.find(feature, name)
    if found is None:
        return f"it has no {feature.value} of that name"
    return None if found.accepted else found.reason


def missing(*packages: str) -> tuple[str, ...]:
    """Those of the packages that are not installed; none of them is imported."""
    import importlib.util

    return tuple(name for name in packages if importlib.util.find_spec(name) is None)
