"""Probes that do the worst a probe can do on a real device."""

from __future__ import annotations

import os
import signal
import time


def good(device: str) -> str:
    import torch

    total = torch.ones(8, device=device, requires_grad=True).sum()
    total.backward()
    assert float(total) == 8.0
    return "eight ones are eight"


def crash(device: str) -> str:
    good(device)
    os.kill(os.getpid(), signal.SIGSEGV)
    return "not reached"


def hang(device: str) -> str:
    good(device)
    time.sleep(600)
    return "not reached"


def poison(device: str) -> str:
    """An index out of bounds in a kernel leaves a context in which nothing works any more."""
    import torch

    table = torch.zeros(4, device=device)
    table[torch.tensor([1 << 20], device=device)].sum().item()
    return "not reached"


def leave(device: str) -> str:
    os._exit(7)
