"""Python's garbage collector, left alone for a while."""

from __future__ import annotations

import gc


class CollectorAtRest:
    """Within `with`, no garbage is collected; afterwards all is as it was.

    `import torch` leaves a full collection due, which takes longer than a warm `auto()` and would
    fall on its first few objects. It stays where it was: with whoever allocates next.
    """

    def __enter__(self) -> None:
        self._was_on = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._was_on:
            gc.enable()
