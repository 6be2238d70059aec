"""Builds the simulated device: C++ against the torch that is here, once, kept privately.

A build is known by torch's version, the compiler's, Python's and the sources. It appears whole or
not at all; processes that need it at once wait for the first.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from accel.caching import DiskCache, default_folder
from accel.errors import AccelError

NAME = "accel_simulated_device"
SOURCES = Path(__file__).parent / "csrc"
SECONDS = 900.0
"""How long a build may take, and how long another process waits for it."""

_INSTALL = {"linux": "apt-get install g++ (or conda install gxx_linux-64), then again"}


def load(progress: Callable[[str], None] = lambda line: None) -> ModuleType:
    """The extension module, built first if need be. torch must be imported.

    Raises AccelError where it cannot be built: no compiler, headers missing, a compiler's error.
    """
    loaded = sys.modules.get(NAME)
    if loaded is not None:
        return loaded
    path = built(progress)
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(path))
    spec = importlib.util.spec_from_file_location(NAME, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[NAME] = module
    return module


def built(progress: Callable[[str], None] = lambda line: None) -> Path:
    """The path of the library, built if it is not there yet. Imports no torch."""
    compiler = _compiler()
    place = _folder() / f"{NAME}-{_key(compiler)}{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    if _is_ours(place):
        return place
    cache = DiskCache(_folder())
    cache.update("builds", {})  # makes the folder, private to the user
    with cache.lock(NAME, SECONDS, lambda: progress("another process builds the simulator")):
        if not _is_ours(place):
            progress("building the simulated device, once: about a minute")
            _build(compiler, place)
    return place


def _is_ours(path: Path) -> bool:
    """Whether a library is there that this user made and nobody else can write to."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    mine = found.st_uid == os.geteuid() and not found.st_mode & 0o022
    if not mine:
        raise AccelError(
            "the simulated device in the cache is not this user's own",
            found=str(path),
            remedy=f"rm {path}",
        )
    return True


def _folder() -> Path:
    return default_folder(os.environ.get)


def _compiler() -> str:
    """The C++ compiler: `$CXX`, else g++, else c++, else clang++."""
    wanted = [os.environ.get("CXX", ""), "g++", "c++", "clang++"]
    for name in filter(None, wanted):
        found = shutil.which(name)
        if found:
            return found
    raise AccelError(
        "the simulated device is built by a C++ compiler, and there is none",
        found="none of " + ", ".join(filter(None, wanted)),
        remedy=_INSTALL.get(sys.platform, "install a C++ compiler, or set CXX to one"),
    )


def _torch() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise AccelError("torch is not installed", remedy="pip install torch")
    return Path(spec.origin).parent


def _key(compiler: str) -> str:
    """What a build depends on. The file's own time tells one release of a compiler from another."""
    torch = _torch()
    state = os.stat(os.path.realpath(compiler))
    parts = [
        (torch / "version.py").read_text("utf-8"),
        os.path.realpath(compiler),
        f"{state.st_size} {state.st_mtime_ns}",
        sys.version,
        *_flags(),
        *(f"{file.name}\n{file.read_text('utf-8')}" for file in _files("*")),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _files(pattern: str) -> list[Path]:
    return sorted(file for file in SOURCES.glob(pattern) if file.suffix in (".cpp", ".h"))


@functools.cache
def _flags() -> tuple[str, ...]:
    return (
        "-std=c++20",
        "-O2",
        "-g0",
        "-DNDEBUG",
        "-fPIC",
        "-fvisibility=hidden",
        "-w",
        f"-DTORCH_EXTENSION_NAME={NAME}",
        "-DTORCH_API_INCLUDE_EXTENSION_H",
    )


def _includes() -> list[str]:
    torch = _torch() / "include"
    folders = [torch, torch / "torch/csrc/api/include", Path(sysconfig.get_paths()["include"])]
    if not (torch / "ATen").is_dir() or not (folders[2] / "Python.h").is_file():
        raise AccelError(
            "the headers that the simulated device is built with are not here",
            found=f"in {torch} and {folders[2]}",
            remedy="apt-get install python3-dev, and a torch from a wheel",
        )
    return [f"-I{folder}" for folder in folders]


def _build(compiler: str, place: Path) -> None:
    includes = _includes()
    with _private_folder(place.parent) as work:
        files = _files("*.cpp")

        def compile_one(file: Path) -> Path:
            target = work / f"{file.stem}.o"
            _run([compiler, *_flags(), *includes, "-c", str(file), "-o", str(target)])
            return target

        # the largest first, so that the last one to end is not a long one
        files.sort(key=lambda file: file.stem not in ("module", "autocast", "collectives"))
        with ThreadPoolExecutor(max_workers=max(1, min(os.cpu_count() or 1, 8))) as pool:
            objects = list(pool.map(compile_one, files))
        library = work / place.name
        folder = _torch() / "lib"
        names = ("c10", "torch_cpu", "torch", "torch_python")
        _run(
            [
                compiler,
                "-shared",
                *map(str, objects),
                *("-o", str(library), f"-L{folder}", f"-Wl,-rpath,{folder}"),
                *(f"-l{name}" for name in names),
            ]
        )
        os.chmod(library, 0o700)
        os.replace(library, place)


@contextlib.contextmanager
def _private_folder(beside: Path) -> Iterator[Path]:
    """On the file system of the cache, so that the result can be moved into its place whole."""
    with tempfile.TemporaryDirectory(dir=beside, prefix=".build-") as folder:
        yield Path(folder)


def _run(command: Sequence[str]) -> None:
    try:
        done: Any = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(command, str(error)) from None
    if done.returncode != 0:
        raise _failed(command, done.stderr)


def _failed(command: Sequence[str], said: str) -> AccelError:
    lines = [line for line in said.splitlines() if "error" in line.lower()] or said.splitlines()
    return AccelError(
        "the simulated device could not be built",
        found=" | ".join(lines[:3])[:800] or "the compiler said nothing",
        remedy=f"CXX=g++-12 (C++20 is needed), or tell us: {Path(command[0]).name} --version",
    )
