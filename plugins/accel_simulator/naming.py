"""Which recorded machine is meant by a name, and how many of its devices."""

from __future__ import annotations

import dataclasses
import re

from accel import testing
from accel.errors import InputError, did_you_mean

NICKNAMES = {"gb10": "dgx-spark", "spark": "dgx-spark"}
"""Cards that are better known than the machines they come in."""

_MANY = re.compile(r"-x[0-9]+$")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A recorded machine; `count` of its devices, None for all that were recorded."""

    machine: str
    count: int | None

    @property
    def spec(self) -> str:
        """What `ACCEL_SIMULATE` holds."""
        return self.machine if self.count is None else f"{self.machine}:{self.count}"


def parse_spec(text: str) -> Chosen:
    """`NAME` or `NAME:COUNT`. Raises InputError, with the names that are near."""
    name, colon, number = text.strip().partition(":")
    if not colon:
        return choose(name, None)
    if not re.fullmatch(r"[1-9][0-9]{0,3}", number):
        raise InputError(
            f"{text!r} does not say how many devices",
            found=f"{number!r} after the colon",
            remedy=f"accel simulate {name}:1",
        )
    return choose(name, int(number))


def choose(name: str, count: int | None) -> Chosen:
    """The machine of that name, whole or short.

    A name that ends in `-x8` brings the eight devices that were recorded, any other one device,
    unless `count` says otherwise. Raises InputError for a name that is none or could be several.
    """
    if count is not None and count < 1:
        raise InputError(f"{count} devices cannot be simulated", remedy="count=1")
    known = testing.machines()
    text = name.strip().lower()
    if _MANY.search(text) and text in known:
        return Chosen(text, count)
    text = NICKNAMES.get(text, text)
    matches = [text] if text in known else [each for each in known if _is_short_for(text, each)]
    if len(matches) == 1:
        return Chosen(matches[0], 1 if count is None else count)
    if matches:
        raise InputError(
            f"{name!r} could be several machines",
            found=", ".join(matches),
            remedy=f"accel simulate {matches[0]} -- COMMAND",
        )
    words = sorted({*known, *(short for each in known for short in _shorts(each)), *NICKNAMES})
    raise InputError(
        f"no machine to simulate is called {name!r}{did_you_mean(text, words)}",
        found=f"{len(known)} recorded machines of other names",
        remedy="accel simulate",
    )


def _is_short_for(text: str, name: str) -> bool:
    return text in _shorts(name)


def _shorts(name: str) -> set[str]:
    """`hygon-k100ai-x8`: itself without the number, and each end of that after a dash."""
    base = _MANY.sub("", name)
    parts = base.split("-")
    return {base, *("-".join(parts[i:]) for i in range(1, len(parts)))}
