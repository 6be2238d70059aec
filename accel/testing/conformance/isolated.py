"""Runs a function of the suite in a fresh interpreter and takes what it yields, line by line.

A plugin, or the device behind it, may crash, hang, exit or print whatever it likes there.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

BOOT = (
    "import json, sys; request = json.load(sys.stdin); sys.path[:] = request['path']; "
    "from accel.testing.conformance.inside import serve; serve(request)"
)
ENDED = "ended"


class Died(Exception):
    """The interpreter ended, or was ended, before the function had."""


def inside(
    function: str,
    arguments: Mapping[str, Any],
    *,
    seconds: float,
    env: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """What `module:function(**arguments)` yields in an interpreter of its own.

    Raises Died where it crashes, exits or takes longer than `seconds`; what it had yielded before
    has been given by then. `env` is added to this process's variables.
    """
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-c", BOOT],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            pass_fds=[writer],
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
        os.close(writer)
        try:
            request = {
                "path": sys.path,
                "parent": os.getpid(),
                "function": function,
                "arguments": arguments,
                "results": writer,
            }
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(json.dumps(request).encode())
            ended = False
            for line in _lines(reader, seconds):
                message = json.loads(line)
                ended = ENDED in message
                if not ended:
                    yield message
            if not ended:
                raise Died(_obituary(child, said))
        except TimeoutError:
            raise Died(f"did not end within {seconds:g} s") from None
        finally:
            os.close(reader)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def one(
    function: str,
    arguments: Mapping[str, Any],
    *,
    seconds: float,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The only thing that the function yields."""
    (answer,) = inside(function, arguments, seconds=seconds, env=env)
    return answer


def _lines(reader: int, seconds: float) -> Iterator[bytes]:
    """Whole lines until the other end is closed. TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    left = b""
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            return
        *whole, left = (left + chunk).split(b"\n")
        yield from filter(None, whole)


def _obituary(child: subprocess.Popen[bytes], said: Any) -> str:
    """How the child ended, and the last thing it said."""
    try:
        code = child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return "closed its pipe and stayed"
    said.seek(0)
    lines = [line.strip() for line in said.read().decode(errors="replace").splitlines()]
    words = [line for line in lines if line.strip("^~ ")]  # not what Python points with
    own = [line for line in words[:-2] if line.startswith("accel: ")][-1:]
    last = "; ".join([*own, *words[-2:]])[-400:]
    how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"{how}: {last}" if last else how
