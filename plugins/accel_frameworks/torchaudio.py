"""torchaudio: where it is installed but its import raises, a stand-in takes its place.

LLaMA-Factory imports it unconditionally, for audio that most training never sees.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable, Sequence

from accel.errors import AccelError
from accel.hookspecs import hookimpl
from accel.values import Patch
from accel_frameworks.optional import STAND_IN, broken, forget, reason_of

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from importlib.abc import Loader as AbstractLoader
    from importlib.abc import MetaPathFinder
    from importlib.machinery import ModuleSpec
    from typing import Any

    from accel.resolving import Capabilities
else:  # importing the abstract classes costs more than they give
    MetaPathFinder = AbstractLoader = object

NAME = "torchaudio"
WITHOUT = "a stand-in takes its place, audio is off"
ALWAYS_IMPORT_IT = ("llamafactory",)
"""Libraries that import it without a guard, so that even an ImportError stops them."""


class StandInUsed(AccelError, AttributeError):
    """An attribute of a package that could not be imported was used."""


@hookimpl
def accel_patches(capabilities: Capabilities) -> Iterable[Patch]:
    """A finder for this one name, in front of the others, idle until someone imports it."""
    return [
        Patch(
            target="sys",
            distribution=NAME,
            reason="torchaudio built for another torch raises OSError when it is imported, and "
            "LLaMA-Factory imports it unconditionally",
            seam=lambda module: _install(capabilities),
            upstream="https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/"
            "src/llamafactory/data/mm_plugin.py#L30",
            until="LLaMA-Factory imports torchaudio only for audio",
        )
    ]


def _install(capabilities: Capabilities) -> Callable[[], None]:
    finder = Finder(capabilities)
    sys.meta_path.insert(0, finder)

    def undo() -> None:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
        if getattr(sys.modules.get(NAME), STAND_IN, None) is not None:
            forget(NAME)

    return undo


class Finder(MetaPathFinder):
    """Finds the real package and has it loaded by a Loader that can cope with its failure."""

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._looking = False

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname.startswith(f"{NAME}."):
            reason = getattr(sys.modules.get(NAME), STAND_IN, None)
            if reason is not None:
                raise ModuleNotFoundError(
                    f"No module named {fullname!r}: {NAME} cannot be imported ({reason})",
                    name=fullname,
                )
        if fullname != NAME or self._looking:
            return None
        import importlib.util

        self._looking = True
        try:
            spec = importlib.util.find_spec(NAME)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader, self.capabilities)
        return spec


class Loader(AbstractLoader):
    """Runs the real loader; where that raises, empties the module and leaves the reason in it."""

    def __init__(self, real: AbstractLoader, capabilities: Capabilities) -> None:
        self._real = real
        self._capabilities = capabilities

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)  # get_data, is_package and the like, for who asks

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._real  # nobody shall find this loader afterwards
        module.__loader__ = self._real
        try:
            self._real.exec_module(module)
        except Exception as error:
            expected = isinstance(error, ImportError)
            if expected and not any(name in sys.modules for name in ALWAYS_IMPORT_IT):
                raise
            reason = reason_of(error)
            forget(NAME)
            _hollow(module, reason)
            sys.modules[NAME] = module
            self._capabilities.note(broken(NAME, reason, WITHOUT))


def _hollow(module: types.ModuleType, reason: str) -> None:
    """Turn a half-executed module into one that is there, has nothing, and says why."""
    for name in [name for name in vars(module) if not name.startswith("__")]:
        delattr(module, name)
    module.__path__ = []
    setattr(module, STAND_IN, reason)

    def missing(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
        raise StandInUsed(
            f"{NAME}.{name} was used, but {NAME} cannot be imported here",
            found=reason,
            remedy=f"install the {NAME} that was built for this torch",
        )

    module.__dict__["__getattr__"] = missing
