"""What the simulation replaces in torch's modules, so that it can be put back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_ABSENT: Any = object()


class Changes:
    """Attributes and modules that were set, undone in the opposite order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Bind `owner.name`; a name that was not there goes away again."""
        before = vars(owner).get(name, _ABSENT) if hasattr(owner, "__dict__") else _ABSENT
        setattr(owner, name, value)

        def undo() -> None:
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self._undo.append(undo)

    def module(self, name: str, module: ModuleType) -> None:
        """Put `module` among the imported ones."""
        before = sys.modules.get(name)
        sys.modules[name] = module

        def undo() -> None:
            if before is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = before

        self._undo.append(undo)

    def also(self, undo: Callable[[], None]) -> None:
        """Something else that has to be done on the way back."""
        self._undo.append(undo)

    def revert(self) -> None:
        """Put everything back; once."""
        while self._undo:
            self._undo.pop()()
