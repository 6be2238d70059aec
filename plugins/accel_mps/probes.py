"""The one probe that only Metal needs: everything else is in `accel.probes`."""

from __future__ import annotations

from accel import probes


def host_collective(device: str, backend: str) -> str:
    """`backend` with tensors of the host: no backend takes those of `device`."""
    return f"{probes.collective('cpu', backend)}, tensors of the host and not of {device}"
