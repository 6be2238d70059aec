"""torchaudio: where it is installed but its import raises, a stand-in takes its place.

LLaMA-Factory imports it unconditionally, for audio that most training never sees.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from accel.hookspecs import hookimpl
from accel.values import Patch
from accel_frameworks.optional import broken
from accel_frameworks.standins import Finder, Loader, StandInUsed

__all__ = ["Loader", "StandInUsed", "accel_patches"]

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from importlib.abc import Loader as AbstractLoader
    from importlib.abc import MetaPathFinder

    from accel.resolving import Capabilities
else:  # importing the abstract classes costs more than they give
    MetaPathFinder = AbstractLoader = object

NAME = "torchaudio"
WITHOUT = "a stand-in takes its place, audio is off"
ALWAYS_IMPORT_IT = ("llamafactory",)
"""Libraries that import it without a guard, so that even an ImportError stops them."""


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
            symptom="OSError: libc10_cuda.so: cannot open shared object file: No such file or "
            "directory, from import torchaudio in llamafactory/data/mm_plugin.py",
        )
    ]


def _install(capabilities: Capabilities) -> Callable[[], None]:
    def cope(error: BaseException) -> bool:
        expected = isinstance(error, ImportError)
        return not expected or any(name in sys.modules for name in ALWAYS_IMPORT_IT)

    return Finder(
        NAME,
        cope=cope,
        stood_in=lambda reason: capabilities.note(broken(NAME, reason, WITHOUT)),
        remedy=f"install the {NAME} that was built for this torch",
    ).install()
