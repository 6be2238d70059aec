"""Stand-ins: an import that raises is answered with an empty module that says why it is empty.

A finder in front of the others lets the real loader try first; only its failure, and only where
`cope` says so, is turned into a stand-in.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence

from accel.errors import AccelError
from accel_frameworks.optional import STAND_IN, forget, reason_of

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from importlib.abc import Loader as AbstractLoader
    from importlib.abc import MetaPathFinder
    from importlib.machinery import ModuleSpec
    from typing import Any
else:  # importing the abstract classes costs more than they give
    MetaPathFinder = AbstractLoader = object

Cope = Callable[[BaseException], bool]
"""Whether a stand-in shall take the place of a package whose import raised this."""


class StandInUsed(AccelError, AttributeError):
    """An attribute of a package that could not be imported was used."""


class Finder(MetaPathFinder):
    """Finds one real package and has it loaded by a Loader that can cope with its failure."""

    def __init__(
        self,
        name: str,
        *,
        cope: Cope,
        stood_in: Callable[[str], None],
        remedy: str,
        inert: Sequence[str] = (),
        with_parts: bool = False,
    ) -> None:
        self.name = name
        self.cope = cope
        self.stood_in = stood_in
        self.remedy = remedy
        self.inert = inert
        self._with_parts = with_parts
        self._looking = False

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname.startswith(f"{self.name}."):
            return self._part(fullname)
        if fullname != self.name or self._looking:
            return None
        self._looking = True
        try:
            import importlib.util

            spec = importlib.util.find_spec(self.name)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader, self)
        return spec

    def _part(self, fullname: str) -> ModuleSpec | None:
        reason = getattr(sys.modules.get(self.name), STAND_IN, None)
        if reason is None:
            return None
        if self._with_parts:
            from importlib.machinery import ModuleSpec

            return ModuleSpec(fullname, _Part(self, reason), is_package=True)
        raise ModuleNotFoundError(
            f"No module named {fullname!r}: {self.name} cannot be imported ({reason})",
            name=fullname,
        )

    def install(self) -> Callable[[], None]:
        """Put the finder in front of the others; the function returned takes it away again."""
        sys.meta_path.insert(0, self)

        def undo() -> None:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            if getattr(sys.modules.get(self.name), STAND_IN, None) is not None:
                forget(self.name)

        return undo


class Loader(AbstractLoader):
    """Runs the real loader; where that raises, empties the module and leaves the reason in it."""

    def __init__(self, real: AbstractLoader, finder: Finder) -> None:
        self._real = real
        self._finder = finder

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
            finder = self._finder
            if not finder.cope(error):
                raise
            reason = reason_of(error)
            forget(finder.name)
            hollow(module, finder, reason)
            sys.modules[finder.name] = module
            finder.stood_in(reason)


class _Part(AbstractLoader):
    """A submodule of a stand-in is one too."""

    def __init__(self, finder: Finder, reason: str) -> None:
        self._finder = finder
        self._reason = reason

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        hollow(module, self._finder, self._reason)


def hollow(module: types.ModuleType, finder: Finder, reason: str) -> None:
    """Turn a half-executed module into one that is there, has nothing, and says why."""
    for name in [name for name in vars(module) if not name.startswith("__")]:
        delattr(module, name)
    module.__path__ = []
    setattr(module, STAND_IN, reason)
    for name in finder.inert:
        setattr(module, name, _nothing)
    called = module.__name__

    def missing(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {called!r} has no attribute {name!r}")
        raise StandInUsed(
            f"{called}.{name} was used, but {finder.name} cannot be imported here",
            found=reason,
            remedy=finder.remedy,
        )

    module.__dict__["__getattr__"] = missing


def _nothing(*args: Any, **kwargs: Any) -> None:
    """What a package's entry point does where there is nothing to enter."""
