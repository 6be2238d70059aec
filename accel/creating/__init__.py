"""`accel new-plugin`: a package that installs, is found, and passes the suite unedited."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import keyword
import os
import platform
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from accel.errors import InputError
from accel.loading import candidates
from accel.machine import ThisMachine

FoundBy = Literal["pci", "bridge"]
LONGEST = 30
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_KIND = re.compile(r"[a-z][a-z0-9_]*")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_PCI = re.compile(r"[0-9a-f]{4}")

FILES: Mapping[str, str] = {
    "module.py.jinja": "{package}/__init__.py",
    "facts.toml.jinja": "{package}/facts.toml",
    "conformance.toml.jinja": "{package}/conformance.toml",
    "machine.json.jinja": "{package}/machines/{machine}.json",
    "pyproject.toml.jinja": "pyproject.toml",
    "README.md.jinja": "README.md",
    "test.py.jinja": "tests/test_{name}.py",
}


def new_plugin(
    name: str,
    folder: Path,
    *,
    kind: str | None = None,
    bridge: str | None = None,
    pci: str | None = None,
    found_by: FoundBy = "pci",
) -> tuple[Path, ...]:
    """Write a plugin's package into `folder`, which must be empty or not there yet.

    `kind` is torch's device type, `bridge` the distribution that brings it to torch, `pci` the
    maker's PCI id; each has a placeholder. Raises InputError for a name or value that will not do,
    and where there is anything in the folder; nothing is written then.
    """
    _check_empty(folder)
    values = _values(name, kind, bridge, pci, found_by)
    rendered = {folder / target.format(**values): _render(t, values) for t, target in FILES.items()}
    written: list[Path] = []
    try:
        for path, text in rendered.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
    except OSError as error:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        raise InputError(
            f"the package cannot be written into {folder}",
            found=error.strerror or str(error),
            remedy=f"accel new-plugin {name} --into a folder that is yours",
        ) from None
    return tuple(rendered)


def _values(
    name: str, kind: str | None, bridge: str | None, pci: str | None, found_by: FoundBy
) -> dict[str, Any]:
    name = name.replace("-", "_")
    _check_name(name)
    title = name.replace("_", " ").title()
    here = ThisMachine()
    values: dict[str, Any] = {
        "name": name,
        "package": f"accel_{name}",
        "distribution": f"accel-{name.replace('_', '-')}",
        "machine": f"{name.replace('_', '-')}-one",
        "title": title,
        "arch": f"{name}1",
        "kind": kind or name,
        "bridge": bridge or f"torch-{name.replace('_', '-')}",
        # A placeholder of its own for each name, so that two new packages get along.
        "pci": pci or f"{zlib.crc32(name.encode()) % 0x1000 | 0xF000:04x}",
        "found_by": found_by,
        "torch": (here.version("torch") or "2.13.0").partition("+")[0],
        "python": platform.python_version(),
    }
    for option, pattern, such_as in (
        ("kind", _KIND, name),
        ("bridge", _DISTRIBUTION, f"torch-{name}"),
        ("pci", _PCI, "1da3"),
    ):
        if not pattern.fullmatch(values[option]):
            raise InputError(
                f"{values[option]!r} will not do for --{option}",
                found=f"it is not of the form {pattern.pattern}",
                remedy=f"accel new-plugin {name} --{option} {such_as}",
            )
    return values


def _check_name(name: str) -> None:
    """A name that can be a module's, is no one's yet, and means nothing else."""
    taken = {candidate.name for candidate in candidates()}
    problem = ""
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        problem = f"not small letters, digits and single underscores, {LONGEST} at most"
    elif keyword.iskeyword(name) or name == "test":
        problem = "a word of Python's"
    elif name in taken:
        problem = "an installed plugin has that name"
    elif importlib.util.find_spec(f"accel_{name}") or _is_installed(f"accel-{name}"):
        problem = f"accel_{name} is installed already"
    if problem:
        raise InputError(
            f"a plugin cannot be called {name!r}",
            found=problem,
            remedy="accel new-plugin with the maker's name, such as acme",
        )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _check_empty(folder: Path) -> None:
    """Nothing but a repository's own folder may be in it: nothing is ever overwritten."""
    try:
        there = sorted(set(os.listdir(folder)) - {".git"}) if folder.exists() else []
    except OSError as error:
        raise InputError(
            f"{folder} is no folder",
            found=str(error.strerror),
            remedy="accel new-plugin NAME --into FOLDER, for one that is empty or not there yet",
        ) from None
    if there:
        raise InputError(
            f"{folder} is not empty, and nothing is overwritten",
            found=", ".join(there[:5]),
            remedy="accel new-plugin NAME --into FOLDER, for one that is empty or not there yet",
        )


def _render(template: str, values: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("accel.creating", "template"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - Python, TOML and JSON, from values that were checked
    )
    return environment.get_template(template).render(**values)
