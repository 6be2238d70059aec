"""Run as a child: keep something in accel's caches, twice, and print what became of it as JSON.

python cache_child.py cubin|tuning [START]    START: the time to begin at, in seconds
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

import accel
from accel_kernels.cuda_provider import compiling
from accel_kernels.cuda_provider.compiling import Program
from accel_kernels.triton_provider import tuning
from accel_kernels.triton_provider.configs import Problem, candidates

PROBLEM = Problem("forward", "sm_90", 132, 4, 128, 4096, 4096, 16, "bfloat16")
PROGRAM = Program.of("dequantize.cu", BITS=4, BF16=0, GROUP=0, SCALE=0, OUT=0)


def cubin() -> dict[str, Any]:
    """Compile for sm_90; the second time nothing is compiled."""
    built, compile_for = [], compiling.compile_for

    def counted(program: Program, architecture: str) -> tuple[bytes, str]:
        built.append(architecture)
        return compile_for(program, architecture)

    compiling.compile_for = counted
    found = [compiling.binary(PROGRAM, (9, 0)) for _ in range(2)]
    return {
        "built": len(built),
        "same": found[0] == found[1] and found[0].startswith(b"\x7fELF"),
        "digest": hashlib.sha256(found[0]).hexdigest(),
    }


def tuned() -> dict[str, Any]:
    """Keep a configuration that is not the shipped one, and ask for it."""
    config = list(candidates(PROBLEM))[-1]
    tuning._keep(PROBLEM, config)
    tuning.forget()
    return {"same": tuning.chosen(PROBLEM, sys.exit) == config}


def main() -> None:
    report = accel.auto("cpu")
    if len(sys.argv) > 2:
        time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
    found = {"cubin": cubin, "tuning": tuned}[sys.argv[1]]()
    notes = [note.message for note in report.notes]
    print(json.dumps({**found, "notes": notes, "report": str(report)}))


if __name__ == "__main__":
    main()
