"""`ACCEL_AUTO=1 <any command>`: torch's own door for code that wants to be loaded with torch.

torch calls every entry point of the group `torch.backends` at the end of `import torch`, in every
process: an unchanged training command, the ranks it starts, their workers. `load` is accel's. It
is inert without `ACCEL_AUTO`, and whatever happens inside it, `import torch` goes on.

Nothing here, or called from here, may import torch in another thread: the import that is under
way holds torch's lock.
"""

from __future__ import annotations

import itertools
import os

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from accel.report import Report

AUTO = "ACCEL_AUTO"
PROBING = "ACCEL_PROBING"


def load() -> None:
    """Call `auto()` if `ACCEL_AUTO` asks for it, and print one line on stderr. Never raises."""
    if os.environ.get(AUTO, "") in ("", "0") or os.environ.get(PROBING):
        return
    import sys

    try:
        if _only_starts_others(sys.argv, getattr(sys, "orig_argv", [])):
            return
        from accel.resting import CollectorAtRest

        with CollectorAtRest():
            from accel import pipeline

        said = line_of(pipeline.auto())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - `import torch` must not fail for it
        said = f"accel: auto() failed, nothing was changed: {_brief(error)}"
    _say(said)


def _say(line: str) -> None:
    """On stderr, where there is one: a daemon's is closed, and a pipe may have lost its reader."""
    import contextlib
    import sys

    if sys.stderr is not None:  # to print() None means stdout, which is the program's own
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")  # at once: print() lets other processes in between
            sys.stderr.flush()


def line_of(report: Report) -> str:
    """`accel: rank 1/2 · cpu · sdpa · float32 · gloo · 5 repairs`; no rank outside torchrun."""
    plan = report.plan
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    standing = sum(entry.state in ("applied", "waiting") for entry in report.entries)
    parts = [
        f"rank {rank}/{world}" if rank and world else "",
        plan.device.torch_name,
        plan.attention or "no attention",
        plan.dtype or "no dtype",
        plan.collective or "",
        f"{standing} repair{'' if standing == 1 else 's'}",
    ]
    return "accel: " + " · ".join(part for part in parts if part)


def _only_starts_others(argv: list[str], original: list[str]) -> bool:
    """Whether this process is torchrun's agent, which computes nothing and starts the ranks."""
    program = os.path.basename(argv[0]) if argv else ""
    if program in ("torchrun", "torchrun.exe"):
        return True
    # while runpy still imports the package, argv[0] is "-m" and the name is only in the original
    modules = ("torch.distributed.run", "torch.distributed.launch")
    return program == "-m" and any(
        before == "-m" and name in modules for before, name in itertools.pairwise(original)
    )


def _brief(error: BaseException) -> str:
    text = " · ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
