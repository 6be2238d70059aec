"""The `accel` command in a process of its own, and distributions made for a test."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def environment(**changes: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ACCEL_")}
    return {**kept, "ACCEL_PROBE": "0", **changes}


def accel(
    *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "accel", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment(**(env or {})),
        timeout=120,
    )


def distribution(folder: Path, name: str, entries: str, **modules: str) -> dict[str, str]:
    """An installed distribution with entry points of group accel; the environment that shows it."""
    info = folder / f"{name.replace('-', '_')}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[accel]\n{entries}\n")
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(textwrap.dedent(source))
    return {"PYTHONPATH": str(folder)}
