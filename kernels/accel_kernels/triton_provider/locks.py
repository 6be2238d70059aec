"""Counters, all 0 between kernels, by which the splits of a tile find out who is last.

Every kernel leaves them at 0, and kernels of one stream follow each other, so that each stream has
one set. A captured graph may be replayed beside anything: every call in it gets a set of its own.
"""

from __future__ import annotations

import dataclasses

import torch

ARENA = 1 << 16
"""Counters allocated at a time."""


@dataclasses.dataclass
class _Arena:
    counters: torch.Tensor
    used: int = 0


_streams: dict[tuple[torch.device, int], torch.Tensor] = {}
_captured: dict[torch.device, list[_Arena]] = {}


def locks_for(device: torch.device, count: int) -> torch.Tensor:
    """int32 [at least `count`], all 0, that nothing running at the same time uses."""
    if device.type != "cuda":
        return torch.zeros(count, dtype=torch.int32, device=device)
    if torch.cuda.is_current_stream_capturing():
        return _for_graph(device, count)
    _spare(device)
    key = (device, torch.cuda.current_stream(device).cuda_stream)
    held = _streams.get(key)
    if held is None or held.numel() < count:
        held = torch.zeros(max(count, 4096), dtype=torch.int32, device=device)
        _streams[key] = held
    return held


def _spare(device: torch.device) -> _Arena:
    """An arena made outside of a capture, for the captures to come."""
    arenas = _captured.setdefault(device, [])
    if not arenas or arenas[-1].used > ARENA // 2:
        arenas.append(_Arena(torch.zeros(ARENA, dtype=torch.int32, device=device)))
    return arenas[-1]


def _for_graph(device: torch.device, count: int) -> torch.Tensor:
    for arena in reversed(_captured.get(device, [])):
        if arena.used + count <= arena.counters.numel():
            arena.used += count
            return arena.counters[arena.used - count : arena.used]
    # Memory of the graph's own, which it sets to 0 at every replay.
    return torch.zeros(count, dtype=torch.int32, device=device)
