"""Make the environments of environments.toml that are not there, or not up to date.

python tests/failures/make_environments.py [NAME ...]
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import failure


def tool() -> ModuleType:
    """tools/environment.py as a module."""
    path = failure.ROOT / "tools" / "environment.py"
    spec = importlib.util.spec_from_file_location("environment_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main(names: list[str]) -> int:
    """All of them, or those named; 1 where one could not be made."""
    made = tool()
    declared = failure.environments()
    unknown = set(names) - set(declared)
    if unknown:
        print(f"not in environments.toml: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 1
    base = Path(sys.prefix)
    for name, wanted in declared.items():
        if names and name not in names:
            continue
        folder = failure.folder_of(name)
        try:
            parts = (wanted.get(part, []) for part in ("also", "bare", "hidden"))
            fresh = made.make_layer(folder, base, *parts)
        except made.Failed as problem:
            print(f"\n{name}: {problem}", file=sys.stderr)
            return 1
        if not fresh:
            print(f"{name} is up to date", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
