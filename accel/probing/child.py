"""What runs in a probe's child process: takes one request a line, answers each with one line.

Started as a script by `accel.probing.process`, with the number of the pipe for answers and a word
that begins every answer, so that nothing a probe prints, anywhere, can pass for one.
"""

from __future__ import annotations

import sys

if (
    __name__ == "__main__"
):  # a script's own folder leads its path: accel's modules are not top-level
    sys.path[:] = [entry for entry in sys.path if entry != __file__.rpartition("/")[0]]

import contextlib
import errno
import importlib
import json
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

LONGEST_DETAIL = 500
ORPHAN_SECONDS = 30
"""How long after a probe's own limit the child ends itself: only if its parent is gone by then."""

HARMLESS = (ImportError, AttributeError, LookupError, TypeError, ValueError, NotImplementedError)
TRANSIENT_NUMBERS = (errno.ENOMEM, errno.EAGAIN, errno.EBUSY, errno.ENOSPC)
TRANSIENT_WORDS = ("out of memory", "busy or unavailable", "resource busy", "temporarily unavail")


def one_line(text: str) -> str:
    """The line of `text` that says most: the first, with the last where the first only leads in."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    said = lines[0]
    if said.endswith(":") and len(lines) > 1:
        said = f"{said} {lines[-1]}"
    said = "".join(character if character.isprintable() else " " for character in said)
    return said if len(said) <= LONGEST_DETAIL else f"{said[:LONGEST_DETAIL]}..."


def describe(error: BaseException) -> str:
    """One line for people."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r})"
    try:
        said = one_line(str(error))
    except Exception:  # noqa: BLE001 - an exception may fail to print itself; its type still says something
        said = ""
    name = type(error).__name__
    if said and getattr(error, "harmless", False):
        return said
    return f"{name}: {said}" if said else name


def is_transient(error: BaseException) -> bool:
    """Whether it may go otherwise in a while with nothing changed: memory, a busy device."""
    if isinstance(error, OSError) and error.errno in TRANSIENT_NUMBERS:
        return True
    said = f"{type(error).__name__} {describe(error)}".lower()
    return isinstance(error, MemoryError) or any(
        words in said for words in ("outofmemory", *TRANSIENT_WORDS)
    )


def may_poison(error: BaseException, device: str) -> bool:
    """Whether what runs next in this process could fail because of `error`."""
    if getattr(error, "harmless", False) or isinstance(error, HARMLESS):
        return False
    return not (
        device == "cpu" and isinstance(error, (AssertionError, RuntimeError, ArithmeticError))
    )


def find(function: str) -> Callable[..., object]:
    """The function that a Probe names as `module:name`."""
    module, _, name = function.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{function} is not a function")
    return found  # type: ignore[no-any-return]


def settle(device: str) -> None:
    """Let what the probe put on the device finish, so that its failure is not the next one's."""
    kind = device.partition(":")[0]
    torch = sys.modules.get("torch")
    synchronize = getattr(getattr(torch, kind, None), "synchronize", None)
    if kind != "cpu" and synchronize is not None:
        synchronize()


def call(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request: what became of the probe."""
    device = request["device"]
    begin = time.perf_counter()
    try:
        detail = find(request["function"])(device, **request["arguments"])
        settle(device)
        if not isinstance(detail, str):
            raise TypeError(f"the probe returned {type(detail).__name__}, not a line of text")
        answer = {"passed": True, "detail": one_line(detail), "transient": False, "spent": False}
    except BaseException as error:  # noqa: BLE001 - whatever a probe raises is its answer
        answer = {
            "passed": False,
            "detail": describe(error),
            "transient": is_transient(error),
            "spent": may_poison(error, device),
        }
    return {**answer, "seconds": time.perf_counter() - begin}


def prepare(header: Mapping[str, Any]) -> dict[str, Any]:
    """Make this process as its parent asks; the answer says whether probes can run in it."""
    sys.path[:] = header["path"]
    begin = time.perf_counter()
    answer = {"passed": True, "detail": "", "transient": False, "spent": False}
    for name in header["preload"]:
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - a broken installation may raise anything
            detail = f"import {name} failed with {describe(error)}"
            answer = {"passed": False, "detail": detail, "transient": True, "spent": True}
            break
    return {**answer, "seconds": time.perf_counter() - begin}


def yield_to_the_parent() -> None:
    """No core dumps, and where memory runs out the system takes this process and not another."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def main(results: int, word: str) -> NoReturn:
    """Serve requests from what was standard input until it ends, then end without clean-up."""
    home = os.getpid()
    yield_to_the_parent()
    requests = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.set_inheritable(results, False)
    for line in requests:
        request = json.loads(line)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(math.ceil(request["seconds"]) + ORPHAN_SECONDS)
        answer = call(request) if "function" in request else prepare(request)
        if os.getpid() != home:  # the probe forked and both came back: only one of them may answer
            os._exit(0)
        try:
            os.write(results, f"\n{word} {json.dumps(answer)}\n".encode())
        except OSError:  # the parent is gone, or the probe closed the pipe
            os._exit(os.EX_IOERR)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
