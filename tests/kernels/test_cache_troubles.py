"""The caches of compiled kernels and of measured configurations, on disks that do not play along.

Whole processes with real file systems: a full one, a read-only one, and one that several share.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from accel_kernels.cuda_provider import nvrtc

CHILD = Path(__file__).with_name("cache_child.py")
READ_ONLY = "mkdir -m 700 cache && mount -o remount,ro . "
FULL = "(yes | dd of=filler bs=4k 2>&1 || true) >/dev/null "
KINDS = [
    pytest.param(
        "cubin",
        marks=pytest.mark.skipif(
            not list(nvrtc.candidates()), reason="no NVRTC here: pip install nvidia-cuda-nvrtc"
        ),
    ),
    "tuning",
]


@functools.cache
def mounts(folder: Path) -> bool:
    """Whether this user may mount a file system of memory, seen by his own process alone."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def environment(cache: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "ACCEL_TRITON_TUNE"}
    return {**kept, "ACCEL_CACHE_DIR": str(cache), "ACCEL_PROBE": "0"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("state", "said"),
    [(READ_ONLY, "Read-only file system"), (FULL, "No space left on device")],
    ids=["read-only", "full"],
)
def test_memory_serves_and_the_report_says_so(
    kind: str, state: str, said: str, tmp_path: Path
) -> None:
    if not mounts(tmp_path):
        pytest.skip("this user may not mount a file system in a namespace of his own")
    run = shlex.join([sys.executable, str(CHILD), kind])
    script = f"mount -t tmpfs -o size=16k tmpfs . && cd {tmp_path} && {state}&& exec {run}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, env=environment(tmp_path / "cache"),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"]
    assert found.get("built", 1) == 1
    lines = [note for note in found["notes"] if said in note and "this process only" in note]
    assert lines
    assert "ACCEL_CACHE_DIR=" in found["report"]


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_begin_at_once_do_not_collide(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, str(CHILD), kind, str(time.time() + 5)]
    racers = [
        subprocess.Popen(command, env=environment(tmp_path / "cache"), stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    found: list[dict[str, Any]] = []
    for racer in racers:
        out, _ = racer.communicate(timeout=120)
        assert racer.returncode == 0
        found.append(json.loads(out.splitlines()[-1]))
    assert all(one["same"] and not [n for n in one["notes"] if "cache" in n] for one in found)
    if kind == "cubin":
        assert sum(one["built"] for one in found) == 1
        assert len({one["digest"] for one in found}) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_foreign_cubin_in_the_cache_is_built_again(tmp_path: Path) -> None:
    """As if somebody had copied the cache of another machine, or of another program, over it."""
    if not list(nvrtc.candidates()):
        pytest.skip("no NVRTC here: pip install nvidia-cuda-nvrtc")

    def run() -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, str(CHILD), "cubin"], env=environment(tmp_path / "cache"),
            stdout=subprocess.PIPE, timeout=120, check=True,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    first = run()
    (file,) = tmp_path.rglob("*.kernel")
    file.write_bytes(b"\x7fELF" + bytes(5000))
    second, third = run(), run()
    assert [one["built"] for one in (first, second, third)] == [1, 1, 0]
    assert first["digest"] == second["digest"] == third["digest"]
    assert any("is built again" in note for note in second["notes"])
    assert not any("built again" in note for note in third["notes"])
