"""What runs in the fresh interpreters of the suite. `serve` is where each begins."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn


def serve(request: Mapping[str, Any]) -> NoReturn:
    """Call the function that was asked for, and send each thing that it yields as one line."""
    die_with_parent(request["parent"])
    home = os.getpid()
    results = request["results"]
    os.set_inheritable(results, False)
    module, _, name = request["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    for answer in function(**request["arguments"]):
        if os.getpid() != home:
            os._exit(0)
        os.write(results, json.dumps(answer).encode() + b"\n")
    if os.getpid() == home:
        os.write(results, b'{"ended": true}\n')
    # Without clean-up: a vendor's library that crashes on its way out is not what is judged here.
    os._exit(0)


def die_with_parent(parent: int) -> None:
    """Be ended when the process that started this one is: killed, it can no longer do that itself.

    On Linux; elsewhere this process ends with what it is doing, in its own time.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl(2)
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL))
        if os.getppid() != parent:  # it died before that
            os._exit(1)
