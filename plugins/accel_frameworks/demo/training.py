"""The demo's training: `accel llamafactory train` in a child, followed through its log."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accel_frameworks.demo.common import DemoError, Voice, child_environment, run_child


@dataclasses.dataclass(frozen=True, kw_only=True)
class Course:
    """How training went: the loss of each step as logged, and seconds from start to end."""

    losses: Sequence[float]
    seconds: float
    log: str


def accel_command(*arguments: str) -> list[str]:
    """The `accel` command in a child of this very Python."""
    return [sys.executable, "-m", "accel", *arguments]


def read_log(path: Path) -> Iterator[Mapping[str, Any]]:
    """The finished lines of LLaMA-Factory's `trainer_log.jsonl`; none where it is not there yet."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return
    yield from (json.loads(line) for line in lines if line.strip())


def status(log: Path) -> str:
    """What the newest line of the log says, in a few words."""
    entries = [entry for entry in read_log(log) if "loss" in entry]
    if not entries:
        return "(loading)"
    last = entries[-1]
    step, total, left = (
        last.get(key) for key in ("current_steps", "total_steps", "remaining_time")
    )
    return f"(step {step} of {total}, loss {float(last['loss']):.3f}, {left} to go)"


def environment(device: str | None) -> dict[str, str]:
    """The child's environment: one rank unless the user says otherwise.

    The recipe is for one device; several would leave each too few steps to learn from.
    """
    ranks = {"NPROC_PER_NODE": os.environ.get("NPROC_PER_NODE", "1")}
    return child_environment(ranks if device is None else {**ranks, "ACCEL_DEVICE": device})


def train(recipe: Path, output: Path, voice: Voice, device: str | None = None) -> Course:
    """Train as the YAML says. Raises DemoError where it fails or logs no loss."""
    log = output / "trainer_log.jsonl"
    log.unlink(missing_ok=True)
    text = recipe.with_suffix(".log")
    seconds = run_child(
        # The YAML by its bare name: a path with a space would not survive a relaunch by torchrun.
        accel_command("llamafactory", "train", recipe.name),
        log=text,
        doing="training",
        voice=voice,
        remedy="accel doctor",
        status=lambda: status(log),
        cwd=recipe.parent,
        environment=environment(device),
    )
    losses = [float(entry["loss"]) for entry in read_log(log) if "loss" in entry]
    if not losses:
        raise DemoError("training ended but logged no loss", found=str(text), remedy="accel doctor")
    return Course(losses=losses, seconds=seconds, log=str(text))
