#!/usr/bin/env python3
"""Run the conformance suite for every plugin, as far as this machine goes, into docs/results.

    .venv-test/bin/python tools/results.py             everything: hours on two cores
    .venv-test/bin/python tools/results.py ascend cpu  only these plugins

For each: on the recorded machines (and the device, where it is here), then on each of its simulated
devices. A result is written when its run is done, so it can be stopped and called again. At the end
`accel matrix` writes docs/support.md and docs/support.html.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
SIMULATED = {
    "ada": ("rtx-4090",),
    "ampere": ("a100", "rtx-3090"),
    "ascend": ("ascend-910b2:4", "ascend-910a", "ascend-950pr"),
    "blackwell": ("dgx-spark", "b200", "rtx-5090"),
    "cambricon": ("cambricon-mlu590:4", "cambricon-mlu370"),
    "hopper": ("h100", "h200"),
    "musa": ("moore-s4000",),
    "pascal": ("tesla-p4:4",),
    "rocm": ("hygon-k100ai:4", "hygon-bw1000", "mi300x", "rx-7900"),
    "turing": ("t4",),
    "volta": ("v100",),
    "xpu": ("intel-arc-b60",),
}
ON_DEVICE = ("claim.own", "probe.passes", "dtype", "runtime", "collective")
"""What a simulated device adds to the recorded machines."""


def main(wanted: Sequence[str]) -> int:
    """Run what is wanted, and say with the exit code whether all of it went well."""
    import accel

    names = wanted or [info.name for info in accel.plugins()]
    worst = 0
    for name in names:
        where = (
            "hardware" if any(d.owner == name and d.usable for d in accel.devices()) else "recorded"
        )
        worst |= run(["conformance", name], RESULTS / f"{name}-{where}.json")
        for machine in SIMULATED.get(name, ()):
            only = [word for rule in ON_DEVICE for word in ("--only", rule)]
            command = ["simulate", machine, "--", "accel", "conformance", name, *only]
            worst |= run(command, RESULTS / f"{name}-{machine.partition(':')[0]}-simulator.json")
    return worst | run(["matrix"], None)


def run(command: Sequence[str], save: Path | None) -> int:
    """One accel command; its exit code. What was kept stays until its successor is complete."""
    print(f"== accel {' '.join(command)}", flush=True)
    accel = str(Path(sys.executable).with_name("accel"))
    words = [accel if word == "accel" else word for word in command]
    if save is None:
        return subprocess.run([accel, *words], cwd=ROOT, check=False).returncode
    draft = save.with_suffix(".part")
    code = subprocess.run([accel, *words, "--save", str(draft)], cwd=ROOT, check=False).returncode
    if draft.exists() and json.loads(draft.read_text(encoding="utf-8"))["complete"]:
        draft.replace(save)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
