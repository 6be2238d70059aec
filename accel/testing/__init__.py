"""What the author of a plugin imports in tests: recorded machines.

    from accel.testing import machine, machines, simulated

A recorded machine is a JSON file in a folder `machines/` beside a plugin's package; the file's stem
is its name. Boxes that hold several vendors' cards are in `accel/testing/machines/`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path

from accel.errors import InputError, did_you_mean
from accel.recording import RecordedMachine, load
from accel.testing.simulation import simulated

__all__ = ["machine", "machine_files", "machines", "simulated"]

GROUP = "accel"
FOLDER = "machines"


def machines() -> tuple[str, ...]:
    """Names of the recorded machines that come with accel and with every installed plugin."""
    return tuple(machine_files())


def machine_files() -> dict[str, Path]:
    """Each recorded machine's name and file, sorted by name.

    Raises InputError where two files have one name: neither can be meant by it.
    """
    found: dict[str, Path] = {}
    for folder in _folders():
        for file in sorted(folder.glob("*.json")):
            if file.stem in found:
                raise InputError(
                    f"two recorded machines are called {file.stem}",
                    found=f"{found[file.stem]} and {file}",
                    remedy="rename one of the files",
                )
            found[file.stem] = file
    return dict(sorted(found.items()))


def machine(name: str | Path) -> RecordedMachine:
    """The recorded machine of that name, or the one in the JSON file of that path.

    Raises InputError where there is none (with the names that are near), or its file is malformed.
    """
    text = os.fspath(name)
    if isinstance(name, Path) or text.endswith(".json") or os.sep in text:
        return load(name)
    known = machine_files()
    if text in known:
        found = load(known[text])
        found.option = f" --machine {text}"
        return found
    raise InputError(
        f"no recorded machine is called {text!r}{did_you_mean(text, known)}",
        found=f"{len(known)} recorded machines of other names",
        remedy="accel record --list",
    )


def _folders() -> list[Path]:
    """Folders of recorded machines: accel's own first, then the plugins' in the order of names."""
    folders = [Path(__file__).parent / FOLDER]
    packages = {
        entry.value.partition(":")[0].partition(".")[0]
        for entry in importlib.metadata.entry_points(group=GROUP)
    }
    for package in sorted(packages):
        # find_spec of a top-level name runs none of the plugin's code, which may be broken.
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            continue
        places = (spec.submodule_search_locations or ()) if spec else ()
        folders += [Path(place) / FOLDER for place in places]
    return [folder for folder in folders if folder.is_dir()]
