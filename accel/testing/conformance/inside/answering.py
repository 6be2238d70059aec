"""Inside, for answer.*: the same questions again, elsewhere, and with somebody watching."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from typing import Any

from accel import pipeline
from accel.loading import Plugins
from accel.machine import Machine, ThisMachine
from accel.recording import load
from accel.testing import machine_files
from accel.testing.conformance.inside.loading import candidate
from accel.values import as_json

EVENTS = ("open", "os.listdir", "os.scandir", "glob.glob", "subprocess.Popen", "os.system")
LIBRARIES = ("ctypes.dlopen", "socket.connect", "socket.getaddrinfo")
HERE = "this machine"


def repeated(name: str, distribution: str, way: str) -> Iterator[dict[str, Any]]:
    """Digests of all answers by machine: the first time, and the second time, `way` it may be."""
    plugins = Plugins([candidate(name, distribution)], refused=())
    machines = _machines()
    first = _digests(plugins, machines)
    second = _WAYS[way](lambda: _digests(plugins, machines))
    yield {"first": first, "second": second}


def _machines() -> dict[str, Machine]:
    return {HERE: ThisMachine(), **{name: load(file) for name, file in machine_files().items()}}


def _digests(plugins: Plugins, machines: dict[str, Machine]) -> dict[str, str]:
    return {name: _digest(_answers(plugins, machine)) for name, machine in machines.items()}


def _answers(plugins: Plugins, machine: Machine) -> list[Any]:
    """Devices, and what is declared for each, in the order in which they were given."""
    found = pipeline.detect(plugins, machine)
    return [(as_json(d), as_json(pipeline.impls_of(plugins, d, machine))) for d in found]


def _digest(answers: list[Any]) -> str:
    return hashlib.sha256(json.dumps(answers, default=repr).encode()).hexdigest()


def _again(ask: Callable[[], dict[str, str]]) -> dict[str, str]:
    return ask()


def _in_a_thread(ask: Callable[[], dict[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    thread = threading.Thread(target=lambda: found.update(ask()))
    thread.start()
    thread.join()
    return found


def _after_fork(ask: Callable[[], dict[str, str]]) -> dict[str, str]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as file:
            json.dump(ask(), file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    found: dict[str, str] = json.loads(text or "{}")
    return found


_WAYS = {"again": _again, "thread": _in_a_thread, "fork": _after_fork}


def watched(name: str, distribution: str) -> Iterator[dict[str, Any]]:
    """What of this machine the plugin touched while it was asked about recorded ones."""
    entry = candidate(name, distribution)
    plugins = Plugins([entry], refused=())
    machines = [load(file) for file in machine_files().values()]
    package = entry.value.partition(":")[0].partition(".")[0].strip()
    watch = _Watch(package)
    watch.start()
    for machine in machines:
        _answers(plugins, machine)
    watch.on = False
    yield {"touched": sorted(watch.touched)}


class _Watch:
    """Notes what code of one package does to the system; Python's own audit events tell it."""

    def __init__(self, package: str) -> None:
        self.touched: set[str] = set()
        self.on = False
        self._package = package
        harmless = {*sysconfig.get_paths().values(), *sys.path, sys.prefix, sys.base_prefix}
        for name in (package, "accel"):  # an editable install is on no path
            harmless.update(getattr(sys.modules.get(name), "__path__", ()))
        self._harmless = tuple(os.path.abspath(path) for path in harmless if path)

    def start(self) -> None:
        """An audit hook cannot be taken out again, so it looks whether it is still wanted."""
        sys.addaudithook(self._audit)
        vars(os)["environ"] = self._wrapped(os.environ)
        self.on = True

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or event not in (*EVENTS, *LIBRARIES) or not self._is_the_plugins():
            return
        what = arguments[0] if arguments else ""
        if event in ("open", "os.listdir", "os.scandir") and self._is_code(what):
            return
        self.touched.add(f"{event} {what}" if isinstance(what, str) else event)

    def _is_code(self, path: Any) -> bool:
        """Modules and data that came with Python or an installed package, the plugin's too."""
        return not isinstance(path, str) or os.path.abspath(path).startswith(self._harmless)

    def _is_the_plugins(self) -> bool:
        frame = sys._getframe(1)
        while frame is not None:
            name = frame.f_globals.get("__name__", "")
            if name == self._package or name.startswith(f"{self._package}."):
                return True
            frame = frame.f_back  # type: ignore[assignment]
        return False

    def _wrapped(self, environ: Any) -> Any:
        watch = self

        class Watched(type(environ)):  # type: ignore[misc]
            def __init__(self) -> None:
                self.__dict__.update(environ.__dict__)

            def __getitem__(self, key: str) -> str:
                if watch.on and watch._is_the_plugins():
                    watch.touched.add(f"os.environ[{key!r}]")
                return str(super().__getitem__(key))

            def __iter__(self) -> Iterator[str]:
                if watch.on and watch._is_the_plugins():
                    watch.touched.add("os.environ")
                return iter(super().__iter__())

        return Watched()
