"""What several plugins need to find their devices, without torch and without a context.

    visible(machine.env("X_VISIBLE_DEVICES"), count)  -> the physical indices a process may use
    shown(machine, "X_VISIBLE_DEVICES", count)        -> the same, and a Problem where it is none
    torch_build(machine)                              -> what the installed torch was built for
    torch_problem(machine, needs=..., install=...)    -> why torch itself is not fit, or None
    bridge_problem(machine, "torch_x", install=...)   -> why torch and bridge do not fit, or None
    module_version(machine, "driver", ...)            -> the version a kernel module states

Nothing here knows a vendor: a plugin says which variable, which package and which module. A
`Problem` unpacks into a Device's own two fields: `Device(..., problem=p.problem, remedy=p.remedy)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from keyword import iskeyword

from accel import versions

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    from packaging.version import Version

    from accel.machine import Machine

    class Problem(NamedTuple):
        """Why torch cannot use a device as things stand, and the one command that mends it."""

        problem: str
        remedy: str

else:
    from collections import namedtuple

    Problem = namedtuple("Problem", ["problem", "remedy"])


def visible(setting: str | None, count: int, names: Sequence[str] = ()) -> tuple[int, ...]:
    """Physical indices of the devices a process may use; a position in the result is torch's index.

    `setting` is the value of a vendor's list of visible devices, `count` how many there are, and
    `names` their unique names, if the vendor takes names (or the start of one) as well as numbers.

    The rules are the ones most drivers share: unset shows all; an empty list shows none; the order
    of the list is kept; an entry that is no device (out of range, negative, unknown, ambiguous)
    ends the list, so that only what stands before it is seen; a device named twice shows none.
    """
    if setting is None:
        return tuple(range(count))
    chosen: list[int] = []
    for entry in setting.split(","):
        index = _index(entry.strip(), count, names)
        if index is None:
            break
        if index in chosen:
            return ()
        chosen.append(index)
    return tuple(chosen)


def shown(machine: Machine, variable: str, count: int) -> tuple[tuple[int, ...], Problem | None]:
    """`visible` by an environment variable, and why nothing is, where there is something to see.

    A setting that shows nothing would let a machine fall to the host processor without a word; so
    then every device is given, to be listed with the problem.
    """
    setting = machine.env(variable)
    seen = visible(setting, count)
    if seen or count == 0:
        return seen, None
    return tuple(range(count)), Problem(
        f"hidden by {variable}={setting!r}, which names no device that is here", f"unset {variable}"
    )


def _index(entry: str, count: int, names: Sequence[str]) -> int | None:
    """The device that one entry of a list names, or None."""
    if entry.isascii() and entry.isdigit():
        # a length no device number has is refused before int() is asked to convert it
        index = int(entry) if len(entry) < 10 else count
        return index if index < count else None
    matches = [i for i, name in enumerate(names[:count]) if entry and name.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def assignments(text: str) -> dict[str, Any]:
    """The top-level `name = literal` and `name: type = literal` lines of Python source, not run.

    Anything else in the source is passed over; source that does not parse gives nothing.
    """
    plain = _plain_assignments(text)
    if plain is not None:
        return plain
    import ast  # whose import costs more than the reading

    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, Any] = {}
    for line in body:
        if isinstance(line, ast.Assign):
            targets, value = line.targets, line.value
        elif isinstance(line, ast.AnnAssign) and line.value is not None:
            targets, value = [line.target], line.value
        else:
            continue
        try:
            literal = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        found.update({t.id: literal for t in targets if isinstance(t, ast.Name)})
    return found


def _plain_assignments(text: str) -> dict[str, Any] | None:
    """The same where every line is as a build script writes it; None where it takes a parser."""
    constants = {"None": None, "True": True, "False": False}
    found: dict[str, Any] = {}
    for line in text.split("\n"):
        name, equals, value = (part.strip() for part in line.partition("="))
        name = name.partition(":")[0].strip()
        if not line or line.startswith(("#", "from typing import ", "__all__ = [")):
            continue
        quote = value[:1]
        inside = value[1:-1]
        if not equals or not name.isidentifier() or iskeyword(name) or line != line.strip():
            return None
        if value in constants:
            found[name] = constants[value]
        elif (
            len(value) >= 2
            and quote in "'\""
            and value[-1] == quote
            and quote not in inside
            and "\\" not in inside
            and inside.isprintable()
        ):
            found[name] = inside
        else:
            return None
    return found


def torch_build(machine: Machine) -> Mapping[str, Any]:
    """What the installed torch says of its own build, read from its `version.py` and not imported.

    `version` is always there when torch is (the metadata's, where the file does not say); the
    other keys are the file's own, one for each toolkit it knows, None where not built for it.
    Empty when torch is not installed.
    """
    version = machine.version("torch")
    if version is None:
        return {}
    found = assignments(machine.distribution_file("torch", "torch/version.py") or "")
    build = {name: value for name, value in found.items() if not name.startswith("__")}
    return {**build, "version": found.get("__version__") or version}


def torch_problem(machine: Machine, *, needs: str = "", install: str) -> Problem | None:
    """Why the installed torch is not fit: missing, or outside the range `needs` (PEP 440).

    `install` is the command that mends either.
    """
    version = machine.version("torch")
    if version is None:
        return Problem("torch is not installed", install)
    known = versions.release(version) is not None or parse_version(version) is not None
    if needs and known and not versions.within(version, needs):
        return Problem(f"torch {version} is installed; torch{needs} is needed", install)
    return None


def same_number(version: str) -> str | None:
    """For a bridge that carries the number of the torch it is for: 2.7.1.post2 is for 2.7.1."""
    parsed = parse_version(version)
    return None if parsed is None else parsed.base_version


def named_in_local(version: str) -> str | None:
    """For what names its torch in the local part of its version.

    1.33.1+torch2.11.0 is for 2.11.0, and 2.8.3+cu12torch2.9cxx11abiTRUE for 2.9.
    """
    import re

    match = re.search(r"\+.*?torch[._-]?(\d+(?:\.\d+)+)", version.lower())
    return match.group(1) if match else None


def bridge_problem(
    machine: Machine,
    bridge: str,
    *,
    install: str,
    built_for: Callable[[str], str | None] | None = same_number,
) -> Problem | None:
    """Why torch cannot reach a device that needs the package `bridge`, or None when it can.

    In this order: torch is missing; the bridge is missing; the bridge was built for a torch of
    another major or minor number (`built_for` tells which from the bridge's version; where it
    answers None, or there is none, nothing is claimed). `install` is the command that installs a
    bridge; `{torch}` in it becomes the installed torch's public version, which it has to fit.
    """
    torch = machine.version("torch")
    if torch is None:
        return Problem(f"torch and {bridge} are not installed", install.format(torch="VERSION"))
    command = install.format(torch=torch.partition("+")[0])
    version = machine.version(bridge)
    if version is None:
        return Problem(f"{bridge} is not installed, so torch {torch} has no such device", command)
    meant = None if built_for is None else built_for(version)
    if meant is None or minor(meant) is None or minor(torch) is None:
        return None
    if minor(meant) != minor(torch):
        return Problem(
            f"{bridge} {version} is for torch {meant}; torch {torch} is installed", command
        )
    return None


def parse_version(version: str) -> Version | None:
    """A version by PEP 440, or None for what is not one."""
    # packaging takes milliseconds to import, and most machines have nothing to compare.
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version)
    except InvalidVersion:
        return None


def minor(version: str) -> tuple[int, int] | None:
    """Major and minor number, which is as far as compiled extensions of torch are compatible."""
    plain = versions.release(version)
    if plain:
        return plain[0], plain[1] if len(plain) > 1 else 0
    parsed = parse_version(version)
    return None if parsed is None else (parsed.major, parsed.minor)


def module_version(machine: Machine, *modules: str) -> str | None:
    """The version that the first loaded one of these Linux kernel modules states of itself."""
    for module in modules:
        text = machine.read(f"/sys/module/{module}/version")
        if text and text.strip():
            return text.strip()
    return None
