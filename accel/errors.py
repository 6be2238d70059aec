"""Every error accel raises on purpose.

    AccelError
    ├ PluginError
    │  ├ PluginLoadError        a plugin could not be imported, or was refused
    │  └ PluginContractError    a plugin answered a hook with something the hook does not allow
    ├ DeviceError
    │  ├ NoDevice               nothing here can serve what was asked for
    │  ├ UnknownDevice          no device goes by that name
    │  └ AmbiguousDevice        several different devices go by that name
    ├ CapabilityUnavailable     a named implementation cannot be had on this device
    ├ PatchError
    │  ├ TargetMissing          the attribute to patch is not there
    │  ├ PatchConflict          two patches cannot both hold
    │  └ VersionMismatch        the library is outside the patch's range
    └ InputError                a file or an argument from the user is not usable

Each carries what was wanted, what was found and the one thing to try; `str(error)` is all three.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any


class AccelError(Exception):
    """Base of all errors of accel. `remedy` is a command or an edit, never a shrug."""

    def __init__(self, wanted: str, *, found: str = "", remedy: str = "") -> None:
        self.wanted = wanted
        self.found = found
        self.remedy = remedy
        super().__init__(wanted, found, remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        # an exception pickles as a call with its `args`, which fields given by name do not take:
        # a worker's error would break the pool that carries it to its parent
        return _rebuilt, (type(self), *self.args), vars(self)

    def __str__(self) -> str:
        lines = [self.wanted]
        if self.found:
            lines.append(f"  found: {self.found}")
        if self.remedy:
            lines.append(f"  try:   {self.remedy}")
        return "\n".join(lines)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'a', 'b' or 'c'?` with the names that are near; empty where none is."""
    import difflib

    names = {each.lower(): each for each in known}
    near = [repr(names[each]) for each in difflib.get_close_matches(name.lower(), names, n=3)]
    *others, last = near or [""]
    return f"; did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if last else ""


def _rebuilt(kind: type[AccelError], *args: str) -> AccelError:
    return kind.__new__(kind, *args)


class PluginError(AccelError):
    """A plugin is at fault, not the user."""


class PluginLoadError(PluginError):
    """A plugin could not be imported, or was refused by name."""


class PluginContractError(PluginError):
    """A plugin answered a hook with something the hook does not allow."""


class DeviceError(AccelError):
    """No single device can be chosen."""


class NoDevice(DeviceError):
    """Nothing on this machine can serve what was asked for."""


class UnknownDevice(DeviceError):
    """No device on this machine goes by that name."""


class AmbiguousDevice(DeviceError):
    """Several different devices go by that name."""


class CapabilityUnavailable(AccelError):
    """A named implementation cannot be had. `reasons` has one line for each Decision on it."""

    def __init__(
        self, wanted: str, *, found: str = "", remedy: str = "", reasons: Sequence[str] = ()
    ) -> None:
        super().__init__(wanted, found=found, remedy=remedy)
        self.reasons = tuple(reasons)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  - {reason}" for reason in self.reasons)])


class PatchError(AccelError):
    """A patch cannot be applied."""


class TargetMissing(PatchError):
    """The attribute a patch is for is not there, or does not look as expected."""


class PatchConflict(PatchError):
    """Two patches cannot both hold."""


class VersionMismatch(PatchError):
    """The library is outside the range of versions a patch is for."""


class InputError(AccelError):
    """A file or an argument from the user is not usable; nothing was changed."""
