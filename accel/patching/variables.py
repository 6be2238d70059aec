"""Environment variables that a patch sets: its undo gives them back."""

from __future__ import annotations

import os


class Variables:
    """Variables set by one patch, each with the value that it had before the first time."""

    def __init__(self) -> None:
        self._set: dict[str, tuple[str, str | None]] = {}

    def set(self, name: str, value: str) -> None:
        """Set a variable of this process, and so of what it starts."""
        _, before = self._set.get(name, (value, os.environ.get(name)))
        self._set[name] = (value, before)
        os.environ[name] = value

    def take_back(self) -> None:
        """The variables as they were; what somebody has set since is left alone."""
        while self._set:
            name, (value, before) = self._set.popitem()
            if os.environ.get(name) != value:
                continue
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
