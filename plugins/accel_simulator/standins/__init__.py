"""Stand-ins for the vendors' Python modules, each a package that its own name finds on the path.

They are for a process that simulates: `FOLDER` is put last on its path, so that a real package wins.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = str(Path(__file__).parent)
