"""Inside, for collective.sums: a process for each rank, and what each of them has to end up with.

Every number is small and whole, so that every sum is exact in every dtype and order.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from accel.probing.child import describe
from accel.testing.conformance.inside import die_with_parent

PATIENCE = 90
"""Seconds that a rank waits for the others."""

COUNT = 257
"""Elements: no multiple of any number of ranks."""

BOOT = (
    "import json, sys; request = json.load(sys.stdin); sys.path[:] = request.pop('path'); "
    "from accel.testing.conformance.inside.collecting import rank; rank(**request)"
)


def ranks(
    backend: str,
    devices: Sequence[str],
    dtypes: Sequence[str],
    operations: Sequence[str],
    folder: str,
) -> Iterator[dict[str, Any]]:
    """Start one process for each device, and tell what all of them say."""
    children = []
    for number, device in enumerate(devices):
        request = {
            "backend": backend,
            "device": device,
            "number": number,
            "world": len(devices),
            "dtypes": dtypes,
            "operations": operations,
            "folder": folder,
            "parent": os.getpid(),
            "path": sys.path,
        }
        env = {
            **os.environ,
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(len(devices)),
            "LOCAL_WORLD_SIZE": str(len(devices)),
            "OMP_NUM_THREADS": "1",
        }
        child = subprocess.Popen(
            [sys.executable, "-c", BOOT], stdin=subprocess.PIPE, env=env, text=True
        )
        assert child.stdin is not None
        child.stdin.write(json.dumps(request))
        child.stdin.close()
        children.append(child)
    for child in children:
        child.wait()
    said = [_said(folder, number) for number in range(len(devices))]
    problems = [f"rank {n}: {text['problem']}" for n, text in enumerate(said) if text["problem"]]
    yield {"problem": bool(problems), "detail": "; ".join(problems) or said[0]["detail"]}


def _said(folder: str, number: int) -> dict[str, str]:
    try:
        with open(os.path.join(folder, f"{number}.json"), encoding="utf-8") as file:
            found: dict[str, str] = json.load(file)
    except (OSError, ValueError):
        return {"problem": "ended without a word"}
    return found


def rank(
    backend: str,
    device: str,
    number: int,
    world: int,
    dtypes: Sequence[str],
    operations: Sequence[str],
    folder: str,
    parent: int,
) -> None:
    """One rank: do every collective, and write down what came of it."""
    die_with_parent(parent)
    import torch
    import torch.distributed as dist

    try:
        place = torch.device(device)
        if place.index is not None:
            torch.get_device_module(place).set_device(place.index)
        dist.init_process_group(
            backend,
            store=dist.FileStore(os.path.join(folder, "store"), world),
            rank=number,
            world_size=world,
            timeout=datetime.timedelta(seconds=PATIENCE),
        )
        done = [
            f"{name} in {dtype}"
            for dtype in dtypes
            for name in operations
            if CHECKS[name](device, getattr(torch, dtype), number, world)
        ]
        dist.barrier()
        answer = {"problem": "", "detail": ", ".join(done)}
        dist.destroy_process_group()
    except BaseException as error:  # noqa: BLE001 - whatever a backend raises is its failure
        answer = {"problem": describe(error)}
    with open(os.path.join(folder, f"{number}.json"), "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os._exit(0)


class WrongSum(Exception):
    """A rank holds something else than it should."""


def _numbers(number: int, device: str, kind: Any) -> Any:
    import torch

    return ((torch.arange(COUNT) % 7) + number + 1).to(kind).to(device)


def _expect(what: str, got: Any, wanted: Any) -> bool:
    if not bool((got.cpu() == wanted.cpu()).all()):
        raise WrongSum(
            f"{what} gave {got.flatten()[:3].tolist()}, not {wanted.flatten()[:3].tolist()}"
        )
    return True


def _total(device: str, kind: Any, world: int) -> Any:
    return sum(_numbers(other, "cpu", kind) for other in range(world))


def _all_reduce(device: str, kind: Any, number: int, world: int) -> bool:
    import torch.distributed as dist

    mine = _numbers(number, device, kind)
    dist.all_reduce(mine)
    return _expect("all_reduce", mine, _total(device, kind, world))


def _broadcast(device: str, kind: Any, number: int, world: int) -> bool:
    import torch.distributed as dist

    mine = _numbers(number, device, kind)
    dist.broadcast(mine, src=world - 1)
    return _expect("broadcast", mine, _numbers(world - 1, "cpu", kind))


def _all_gather(device: str, kind: Any, number: int, world: int) -> bool:
    import torch
    import torch.distributed as dist

    mine = _numbers(number, device, kind)
    theirs = [torch.zeros_like(mine) for _ in range(world)]
    dist.all_gather(theirs, mine)
    return all(
        _expect("all_gather", got, _numbers(other, "cpu", kind)) for other, got in enumerate(theirs)
    )


CHECKS: dict[str, Callable[[str, Any, int, int], bool]] = {
    "all_reduce": _all_reduce,
    "broadcast": _broadcast,
    "all_gather": _all_gather,
}
