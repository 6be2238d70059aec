"""Stand-ins for the vendors' Python modules: one folder a device type, to be put on Python's path.

They are for a process that simulates such a device, and for its children, and refuse to be imported
anywhere else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def folders(kinds: Iterable[str]) -> list[str]:
    """The folders of the stand-ins for those torch device types; some need none."""
    every = (Path(__file__).parent / kind for kind in sorted(set(kinds)))
    return [str(folder) for folder in every if folder.is_dir()]


def python_path(before: str | None, kinds: Iterable[str]) -> str | None:
    """`PYTHONPATH` with the stand-ins for those device types, which children find before torch."""
    parts = [*([before] if before else []), *folders(kinds)]
    return os.pathsep.join(parts) or None
