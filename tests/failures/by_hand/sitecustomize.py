"""What a user without accel does by hand about PyPI's torchvision and torchaudio: hide them.

On the path of programs whose failure is another one; also of the ranks they start.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from typing import Any


class Hide(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """torchvision is not there, torchaudio is empty."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name == "torchaudio":
            return importlib.machinery.ModuleSpec(name, self)
        if name.partition(".")[0] == "torchvision":
            raise ModuleNotFoundError(name, name=name)
        return None

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        return None


def install() -> None:
    """Once for a process."""
    find_spec = importlib.util.find_spec

    def hidden(name: str, package: str | None = None) -> Any:
        return None if name.startswith("torchvision") else find_spec(name, package)

    sys.meta_path.insert(0, Hide())
    importlib.util.find_spec = hidden


install()
