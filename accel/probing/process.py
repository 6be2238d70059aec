"""A probe's child process as its parent sees it: asked for one thing at a time, never trusted.

It has a process group of its own, which is killed whole. Its answers come over a pipe made for
them; of what it prints on standard error only the end is kept. POSIX only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import resource
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accel.errors import AccelError

SCRIPT = Path(__file__).with_name("child.py")
LOOK_SECONDS = 0.25
"""How often to look whether the child has ended though something it left behind holds its pipes."""
END_SECONDS = 0.005
"""The same once the pipe for answers is closed: as a rule the child is then about to have ended."""
KILL_SECONDS = 5.0
MOST_UNREAD = 1 << 20
TAIL_BYTES = 8192
TAIL_CHARACTERS = 200

RANK_VARIABLES = frozenset(
    {
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
        *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    }
)
RANK_PREFIXES = ("TORCHELASTIC_", "OMPI_COMM_", "PMI_", "PMIX_", "SLURM_PROCID", "SLURM_LOCALID")
KILLED_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGBUS})


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a request. `transient`: may go otherwise later. `spent`: use no further."""

    passed: bool
    detail: str
    seconds: float = 0.0
    transient: bool = False
    spent: bool = False


def environment() -> dict[str, str]:
    """This process's, less what would make the child a rank, or have it repair libraries itself."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in RANK_VARIABLES and not name.startswith(RANK_PREFIXES)
    }
    kept.pop("ACCEL_AUTO", None)
    return {**kept, "ACCEL_PROBING": "1"}


def _interpreter() -> list[str]:
    flags = {
        "-I": bool(sys.flags.isolated),
        "-E": bool(sys.flags.ignore_environment),
        "-s": bool(sys.flags.no_user_site),
        "-S": bool(sys.flags.no_site),
        "-B": sys.dont_write_bytecode,
    }
    return [sys.executable, *(flag for flag, wanted in flags.items() if wanted)]


class Child:
    """One child. `start`, then `ask` until an outcome is spent, then `stop`; `stop` always."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._word = secrets.token_hex(8)
        self._killed = False
        self._stdin = self._stderr = self._results = -1
        self._unread = b""
        self._tail = b""

    def start(self, preload: Sequence[str], seconds: float) -> Outcome:
        """Start it and have it import `preload`; passed when probes can be sent.

        Raises AccelError where no descriptor is left for it: that says nothing of any probe.
        """
        try:
            self._launch()
        except OSError as error:
            self.stop()
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise _no_descriptor_left(error) from None
            detail = f"no child process could be started: {error}"
            return Outcome(False, detail, transient=True, spent=True)
        for pipe in (self._stdin, self._stderr, self._results):
            os.set_blocking(pipe, False)
        header = {"path": [str(entry) for entry in sys.path], "preload": list(preload)}
        outcome = self.ask(header, seconds)
        if outcome.passed:
            return outcome
        what = f"the child process could not start: {outcome.detail}"
        return dataclasses.replace(outcome, detail=what, transient=True, spent=True)

    def _launch(self) -> None:
        # Popen's own pipes stay open in Python 3.11 and older where the second cannot be had
        with contextlib.ExitStack() as theirs:
            stdin, self._stdin = os.pipe()
            theirs.callback(os.close, stdin)
            self._stderr, stderr = os.pipe()
            theirs.callback(os.close, stderr)
            self._results, answers = os.pipe()
            theirs.callback(os.close, answers)
            self._process = subprocess.Popen(
                [*_interpreter(), str(SCRIPT), str(answers), self._word],
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[answers],
                start_new_session=True,
                env=environment(),
            )

    def ask(self, request: Mapping[str, Any], seconds: float) -> Outcome:
        """Send `request` and wait at most `seconds` for what becomes of it."""
        begin = time.monotonic()
        data = json.dumps({**request, "seconds": seconds}).encode() + b"\n"
        answer = self._converse(data, begin + seconds)
        if answer is not None:
            return Outcome(**answer)
        took = time.monotonic() - begin
        if took >= seconds:
            stopped = "was stopped" if self._kill() else "could not be stopped"
            detail = f"took longer than {seconds:g} s and {stopped}"
            return Outcome(False, detail + self._last_words(), took, transient=True, spent=True)
        return self._post_mortem(took)

    def stop(self) -> None:
        """End it and all its group, and close what is open. No harm in calling it twice."""
        self._kill()
        for name in ("_stdin", "_stderr", "_results"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def _converse(self, data: bytes, deadline: float) -> dict[str, Any] | None:
        """Send `data`, gather what comes; None when the child has ended or time is up."""
        assert self._process is not None
        with selectors.PollSelector() as selector:
            selector.register(self._results, selectors.EVENT_READ)
            selector.register(self._stderr, selectors.EVENT_READ)
            selector.register(self._stdin, selectors.EVENT_WRITE)
            look = LOOK_SECONDS
            while (left := deadline - time.monotonic()) > 0:
                ended = self._process.poll() is not None
                ready = selector.select(0 if ended else min(left, look))
                for key, _ in ready:
                    if key.fd == self._stdin:
                        data = self._send(data)
                        done = not data
                    else:
                        done = not self._receive(key.fd)
                    if done:
                        selector.unregister(key.fd)
                        look = END_SECONDS if key.fd == self._results else look
                answer = self._answer()
                if answer is not None:
                    return answer
                if ended and not any(key.fd == self._results for key, _ in ready):
                    return None
        return None

    def _send(self, data: bytes) -> bytes:
        """What is left to send; nothing more once the child reads no longer."""
        try:
            return data[os.write(self._stdin, data) :]
        except BlockingIOError:
            return data
        except OSError:
            return b""

    def _receive(self, pipe: int) -> bool:
        """Read what is there; False at the pipe's end."""
        try:
            got = os.read(pipe, 65536)
        except BlockingIOError:
            return True
        if pipe == self._results:
            self._unread = (self._unread + got)[-MOST_UNREAD:]
        else:
            self._tail = (self._tail + got)[-TAIL_BYTES:]
        return bool(got)

    def _answer(self) -> dict[str, Any] | None:
        """The first whole answer among the lines that came; what is none is dropped."""
        prefix = self._word.encode() + b" "
        while b"\n" in self._unread:
            line, _, self._unread = self._unread.partition(b"\n")
            if line.startswith(prefix):
                with contextlib.suppress(ValueError):
                    answer: dict[str, Any] = json.loads(line.removeprefix(prefix))
                    return answer
        return None

    def _kill(self) -> bool:
        """Kill the whole group; False where the system cannot end it (a driver that hangs)."""
        if self._process is None or self._killed:
            return True
        self._killed = (
            True  # the number may be another's once the process is gone: never kill twice
        )
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        try:
            self._process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _post_mortem(self, took: float) -> Outcome:
        assert self._process is not None
        self._kill()
        code = self._process.returncode
        transient = False
        if code is not None and code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            transient = -code in KILLED_FROM_OUTSIDE
            memory = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
            detail = f"was killed with {name}{memory}" if transient else f"crashed with {name}"
        else:
            detail = f"its process ended with status {code} before it answered"
        return Outcome(False, detail + self._last_words(), took, transient, spent=True)

    def _last_words(self) -> str:
        """The end of what the child wrote on standard error, as far as it helps."""
        with contextlib.suppress(OSError):
            while _is_ready(self._stderr) and self._receive(self._stderr):
                pass
        lines = [line.strip() for line in self._tail.decode(errors="replace").splitlines()]
        said = next((line for line in reversed(lines) if line), "")
        said = "".join(character if character.isprintable() else " " for character in said)
        return f" ({said[-TAIL_CHARACTERS:]})" if said else ""


def _is_ready(pipe: int) -> bool:
    """Whether `pipe` can be read at once."""
    with selectors.PollSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(0))


def _no_descriptor_left(error: OSError) -> AccelError:
    most, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = max(4 * most, 4096)
    found = f"{error.strerror}: all {most} that it may have are open"
    if error.errno == errno.ENFILE:
        found, remedy = str(error.strerror), "sudo sysctl -w fs.file-max=1000000"
    elif allowed == resource.RLIM_INFINITY or allowed > most:
        remedy = f"ulimit -n {more if allowed == resource.RLIM_INFINITY else min(more, allowed)}"
    else:
        remedy = f"ls -l /proc/{os.getpid()}/fd"
    return AccelError(
        "a child process for probes needs pipes, and this process has no file descriptor left",
        found=found,
        remedy=remedy,
    )
