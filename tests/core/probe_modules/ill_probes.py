"""Probes that do what probes must be able to do without harm to anyone. No torch is imported."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_poisoned = False


def well(device: str, said: str = "well") -> str:
    return said


def process(device: str) -> str:
    return str(os.getpid())


def logged(device: str, path: str, seconds: float = 0.0) -> str:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return "logged"


def surroundings(device: str, names: list[str]) -> str:
    found: dict[str, object] = {name: os.environ.get(name) for name in names}
    found["stdin"] = sys.stdin.read()
    found["argv0"] = os.path.basename(sys.argv[0])
    found["session"] = os.getsid(0) == os.getpid()
    found["cores"] = os.popen("ulimit -c").read().strip()
    return json.dumps(found)


def killed(device: str, number: int) -> str:
    os.kill(os.getpid(), number)
    time.sleep(60)
    return "survived"


def aborts(device: str) -> str:
    sys.stderr.write("terminate called: the allocator has had enough\n\n")
    sys.stderr.flush()
    os.abort()


def reads_null(device: str) -> str:
    ctypes.string_at(0)
    return "there is something at address 0"


def leaves(device: str, status: int) -> str:
    os._exit(status)


def exits(device: str, status: object) -> str:
    sys.exit(status)  # type: ignore[arg-type]


def interrupted(device: str) -> str:
    raise KeyboardInterrupt


def hangs(device: str) -> str:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


def hangs_with_family(device: str, path: str) -> str:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(path).write_text(str(child.pid))
    time.sleep(600)
    return "woke"


def escapes(device: str) -> str:
    """A descendant in a session of its own keeps every pipe, and this process is gone."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(8)
        os._exit(0)
    os._exit(3)


def forks(device: str) -> str:
    """Both processes come back from this function."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return f"answered by {'parent' if pid else 'child'}"


def prints(device: str) -> str:
    print("{}\n" * 1000, flush=True)
    os.write(1, b"\x00\xff garbage" * 9999)
    os.write(2, b"\x1b[31mnoise\n" * 99999)
    for number in range(3, 64):
        try:
            os.write(number, b'garbage {"passed": true, "detail": "forged"}\n' * 9)
        except OSError:
            continue
    return "printed"


def closes_everything(device: str) -> str:
    os.closerange(0, 256)
    return "closed"


def raises(device: str, kind: str, text: str) -> str:
    kinds = {"RuntimeError": RuntimeError, "ValueError": ValueError, "OSError": OSError}
    raise kinds[kind](text)


def out_of_memory(device: str) -> str:
    return str(len(bytearray(1 << 62)))


def busy(device: str) -> str:
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def unprintable(device: str) -> str:
    class BadError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    raise BadError


def poisons(device: str) -> str:
    global _poisoned
    _poisoned = True
    raise RuntimeError("an illegal memory access was encountered\nand advice\nthat helps nobody")


def poisoned(device: str) -> str:
    if _poisoned:
        raise RuntimeError("the context is poisoned")
    return "clean"


def thread_left(device: str) -> str:
    threading.Thread(target=time.sleep, args=(600,)).start()
    return "left a thread"


def wrong_type(device: str) -> str:
    return 1  # type: ignore[return-value]


def late_failure(device: str) -> str:
    """Passes, but what it queued on the device fails; the device's own module tells when asked."""

    class Device:
        @staticmethod
        def synchronize() -> None:
            raise RuntimeError("a queued kernel failed")

    class Torch:
        fake = Device

    sys.modules["torch"] = Torch  # type: ignore[assignment]
    return "queued"
