"""Optional packages that are installed but cannot be imported.

A compiled companion package that was built for another torch raises RuntimeError or OSError while
it is imported. Libraries only ask whether it is installed, or expect ImportError, and fall over.
"""

from __future__ import annotations

import sys

from accel.values import Level, Note

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from accel.resolving import Capabilities

STAND_IN = "__accel_stand_in__"
"""Set to the reason on a module that stands in for one that cannot be imported."""


class Optional:
    """One optional package: whether it can really be imported, tried once when first asked."""

    def __init__(self, name: str, capabilities: Capabilities, *, without: str) -> None:
        self.name = name
        self._capabilities = capabilities
        self._without = without
        self._known = False
        self._problem: str | None = None

    def problem(self) -> str | None:
        """Why the package, though installed, cannot be imported; None where it can, or is not."""
        if not self._known:
            self._known = True  # set first: the import may well ask again
            self._problem = self._try()
            if self._problem is not None and self.name not in sys.modules:
                # a stand-in, which is in sys.modules, has been spoken of already
                self._capabilities.note(broken(self.name, self._problem, self._without))
        return self._problem

    def _try(self) -> str | None:
        import importlib.util

        if self.name not in sys.modules and importlib.util.find_spec(self.name) is None:
            return None
        try:
            module = importlib.import_module(self.name)
        except Exception as error:  # noqa: BLE001 - what it raises is the answer
            forget(self.name)
            return reason_of(error)
        return getattr(module, STAND_IN, None)


def broken(name: str, reason: str, without: str) -> Note:
    """The line of the report on a package that cannot be imported."""
    return Note(
        level=Level.WARNING,
        subject=name,
        message=f"is installed but cannot be imported ({reason}); {without}",
        remedy=f"install the {name} that was built for this torch, or: pip uninstall -y {name}",
        origin="accel_frameworks",
    )


def reason_of(error: BaseException) -> str:
    """One line on an import that failed, with the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def forget(name: str) -> None:
    """Take a half-imported package out of `sys.modules`, so that nobody finds its pieces."""
    for key in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
        del sys.modules[key]
