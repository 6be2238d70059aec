"""Bridges: the packages that bring a card to torch, where the card's own software is not there.

torch loads every bridge at the end of its import, and `import torch` fails with the first of them
that does. And scripts that were written for a card import its bridge on their first lines.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterable, Iterator

from accel.hookspecs import hookimpl
from accel.values import Level, Note, Patch
from accel_frameworks.standins import Finder

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    import ast

    from accel.resolving import Capabilities

GROUP = "torch.backends"
OWN = "accel"
IMPORTING = ("importlib", "importlib._bootstrap", "importlib._bootstrap_external")
AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"


@hookimpl
def accel_patches(capabilities: Capabilities) -> Iterable[Patch]:
    """A finder for each bridge, idle until it is imported and its import raises."""
    return [
        Patch(
            target="sys",
            distribution="torch",
            versions=">=2.5",
            reason="torch loads every installed bridge to a card while it is imported, and one "
            "whose driver or toolkit is missing makes `import torch` itself raise; a script "
            "written for that card imports it on its first lines",
            seam=lambda module: install(capabilities, bridges()),
            guard=lambda module: None if bridges() else "no bridge is installed",
            upstream="https://github.com/pytorch/pytorch/issues/180345",
            until="torch goes on without a bridge that cannot be loaded",
            symptom="RuntimeError: Failed to load the backend extension: torch_npu. You can "
            "disable extension auto-loading with TORCH_DEVICE_BACKEND_AUTOLOAD=0.",
        )
    ]


def bridges() -> dict[str, str]:
    """The packages that torch loads as bridges, each with the name of the function it calls."""
    return dict(_bridges(tuple(sys.path)))


@functools.cache
def _bridges(path: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    # cached, because it reads the metadata of everything that is installed
    from accel.distributions import Installed

    values = [entry.value.partition(":") for entry in Installed(path).entry_points(GROUP)]
    found = [(module.partition(".")[0], function.strip()) for module, _, function in values]
    return tuple((package, function) for package, function in found if package != OWN)


def install(capabilities: Capabilities, found: dict[str, str]) -> Callable[[], None]:
    """A finder for each; taking them away gives the environment back, too."""
    from accel.patching.variables import Variables

    variables = Variables()

    def stood_in(package: str) -> Callable[[str], None]:
        def tell(reason: str) -> None:
            # what this process starts would fail in its own `import torch`
            variables.set(AUTOLOAD, "0")
            capabilities.note(unusable(package, reason))

        return tell

    undos = [
        Finder(
            package,
            cope=lambda error: _asked_by_torch_or_unguarded(),
            stood_in=stood_in(package),
            remedy=f"install what {package} needs, or run on the card it is for",
            inert=(function,),
            with_parts=True,
        ).install()
        for package, function in found.items()
    ]

    def undo() -> None:
        for one in undos:
            one()
        variables.take_back()

    return undo


def unusable(package: str, reason: str) -> Note:
    """The line of the report on a bridge that could not be loaded."""
    return Note(
        level=Level.WARNING,
        subject=package,
        message=f"is installed but cannot be loaded ({reason}); torch goes on without it, the "
        f"processes started from here with {AUTOLOAD}=0",
        remedy=f"install the driver and toolkit it needs, or: pip uninstall -y {package}",
        origin="accel_frameworks",
    )


def _asked_by_torch_or_unguarded() -> bool:
    """Whether an ImportError would end the program: nobody here has made provision for one.

    A library that asks in a `try` gets the ImportError it expects, as before.
    """
    frame = _importing_frame()
    if frame is None:
        return False
    module = frame.f_globals.get("__name__", "")
    if module == "importlib.metadata" or module.startswith("importlib.metadata."):
        return True
    return module == "__main__" and not guarded_import(frame.f_code.co_filename, frame.f_lineno)


def _importing_frame() -> types.FrameType | None:
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        ours = name == __name__ or name == "accel_frameworks.standins"
        # metadata's own load() comes through importlib.import_module, which is not who asks
        if not ours and name not in IMPORTING:
            return frame
        frame = frame.f_back
    return None


def guarded_import(filename: str, line: int) -> bool:
    """Whether the import on `line` stands in a `try`; True where the source cannot be read."""
    import ast
    import linecache

    source = "".join(linecache.getlines(filename))
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return True
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    here = [node for node in imports if node.lineno <= line <= (node.end_lineno or node.lineno)]
    return not here or any(node in inside for node in here for inside in _tries(tree))


def _tries(tree: ast.AST) -> Iterator[set[ast.AST]]:
    import ast

    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and node.handlers:
            yield {child for statement in node.body for child in ast.walk(statement)}
