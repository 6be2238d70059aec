"""What every part of the demo shares: its error, its voice, and its way to start a child."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from accel.errors import AccelError

TICK = 0.5
QUIET_SECONDS = 15.0
"""Where the output is not a terminal, a progress line is repeated no more often than this."""


class DemoError(AccelError):
    """A step of the demo could not be done; nothing that exists was damaged."""


class Voice:
    """Says what is being done, on standard error, so that `--json` owns standard output."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream: TextIO = sys.stderr if stream is None else stream
        self._open_line = False
        self._last = 0.0

    @property
    def _tty(self) -> bool:
        return self._stream.isatty()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._close()
        print(text, file=self._stream, flush=True)

    def progress(self, text: str) -> None:
        """A line that is overwritten by the next one on a terminal, and thinned out elsewhere."""
        now = time.monotonic()
        if self._tty:
            print(f"\r\033[K{text}", end="", file=self._stream, flush=True)
            self._open_line = True
        elif now - self._last >= QUIET_SECONDS:
            print(text, file=self._stream, flush=True)
            self._last = now

    def restart(self) -> None:
        """A new step begins: its first progress line waits its turn."""
        self._last = time.monotonic()

    def _close(self) -> None:
        if self._open_line:
            print("\r\033[K", end="", file=self._stream, flush=True)
            self._open_line = False


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment for a child: no model hub, and this Python's own tools first on PATH.

    `ACCEL_AUTO` is left out: the children of the demo call `auto()` themselves.
    """
    environment = {key: value for key, value in os.environ.items() if key != "ACCEL_AUTO"}
    here = os.path.dirname(sys.executable)
    environment["PATH"] = os.pathsep.join(filter(None, [here, environment.get("PATH", "")]))
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**environment, **offline, **(extra or {})}


def run_child(
    command: Sequence[str],
    *,
    log: Path,
    doing: str,
    voice: Voice,
    remedy: str,
    status: Callable[[], str] = str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> float:
    """Run `command` with its output in `log`, telling how long it has been; returns seconds.

    `status()` is appended to the progress line. Raises DemoError with the last lines of the log
    where the command fails, and ends the child where this process is interrupted.
    """
    started = time.monotonic()
    voice.restart()
    with log.open("w", encoding="utf-8", errors="replace") as sink:
        try:
            child = subprocess.Popen(
                list(command),
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=cwd,
                env=dict(environment if environment is not None else child_environment()),
            )
        except OSError as error:
            raise DemoError(f"{doing} failed", found=str(error), remedy=remedy) from error
        with _ended(child):
            while child.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(TICK)
                elapsed = time.monotonic() - started
                if elapsed > 2:
                    voice.progress(f"  {doing}: {elapsed:.0f} s {status()}".rstrip())
    if child.returncode:
        shown = " ".join(command)
        raise DemoError(
            f"{doing} failed: `{shown}` ended with code {child.returncode}",
            found=f"{tail(log)}\n  all of it is in {log}",
            remedy=remedy,
        )
    return time.monotonic() - started


@contextlib.contextmanager
def _ended(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """No child outlives the block: asked to end first, killed after five seconds."""
    try:
        yield
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, without progress bars."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "(no output)"
    kept = [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]
    return "\n    ".join([line for line in kept if line][-lines:]) or "(no output)"
