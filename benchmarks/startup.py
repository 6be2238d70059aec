"""What accel costs at start-up, each figure the median of whole new interpreters.

    python benchmarks/startup.py [--runs 9] [--json FILE]

Rows: an empty interpreter, `import accel`, `accel.devices()`, the `accel devices` command, and
`import torch` with and without a warm `accel.auto()` behind it; where there is a driver to ask,
also the bare questions to it. Report the ratios, not the times.

`import torch` leaves a full garbage collection due, which the next to allocate pays for. auto()
does not: it leaves the collector at rest, and the collection to whatever comes after it. Both rows
with torch end with the interpreter, whose own last collection they both pay.

Bytecode is kept, as pip keeps that of what it installs, whatever PYTHONDONTWRITEBYTECODE says.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CASES = {
    "empty interpreter": [sys.executable, "-c", "pass"],
    "import accel": [sys.executable, "-c", "import accel"],
    "accel.devices()": [sys.executable, "-c", "import accel; accel.devices()"],
    "accel devices (command)": [sys.executable, "-m", "accel", "devices"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch; accel.auto()": [sys.executable, "-c", "import torch, accel; accel.auto()"],
}

DRIVER = (
    "import ctypes; n = ctypes.CDLL('libnvidia-ml.so.1'); c = ctypes.c_uint();"
    "assert n.nvmlInitWithFlags(0) == 0; n.nvmlDeviceGetCount_v2(ctypes.byref(c)); n.nvmlShutdown()"
)
if subprocess.run([sys.executable, "-c", DRIVER], capture_output=True, check=False).returncode == 0:
    CASES["NVML alone, by ctypes"] = [sys.executable, "-c", DRIVER]


VARIABLES = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def seconds(command: Sequence[str]) -> float:
    """Wall-clock seconds of one run."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=VARIABLES)
    return time.perf_counter() - begin


def measure(runs: int) -> dict[str, list[float]]:
    """Seconds of each case, in turn, so that a drift of the machine falls on all of them alike."""
    for command in CASES.values():
        seconds(command)
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(runs):
        for name, command in CASES.items():
            taken[name].append(seconds(command))
    return taken


def inside_auto() -> float:
    """Seconds that a warm `auto()` itself takes in an interpreter that has torch imported."""
    code = (
        "import time, torch; t = time.perf_counter(); import accel; accel.auto();"
        "print(time.perf_counter() - t)"
    )
    return statistics.median(
        float(
            subprocess.run(
                [sys.executable, "-c", code], check=True, capture_output=True, env=VARIABLES
            ).stdout
        )
        for _ in range(5)
    )


def main() -> None:
    """Measure, print the table, and write the raw runs with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    taken = measure(options.runs)
    median = {name: statistics.median(values) for name, values in taken.items()}
    for name, values in taken.items():
        low, high = min(values) * 1e3, max(values) * 1e3
        print(f"{name:28} {median[name] * 1e3:8.1f} ms   ({low:.1f} to {high:.1f})")
    over = (median["accel.devices()"] - median["empty interpreter"]) * 1e3
    pairs = [
        (b - a) / a
        for a, b in zip(taken["import torch"], taken["import torch; accel.auto()"], strict=True)
    ]
    auto = inside_auto()
    print(f"devices() over an empty interpreter: {over:.1f} ms")
    print(f"warm auto() over import torch, pair by pair: {statistics.median(pairs):+.1%}")
    share = auto / median["import torch"]
    print(f"warm auto() by its own clock: {auto * 1e3:.1f} ms, {share:.1%} of import torch")
    if options.json:
        options.json.write_text(
            json.dumps({"runs": taken, "auto": auto}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
