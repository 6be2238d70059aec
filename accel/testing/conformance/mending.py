"""patch.*: a plugin's patches say what they are for, and leave nothing behind."""

from __future__ import annotations

import time
from collections.abc import Iterator

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from accel.testing.conformance.context import Context
from accel.testing.conformance.isolated import Died, inside
from accel.testing.conformance.results import Finding
from accel.values import Patch

SECONDS = 600.0
NOTHING = Finding(status="skipped", detail="it brings no patches")
FEWEST_WORDS = 4


def words(context: Context) -> Iterator[Finding]:
    """Reason, upstream, the versions it is for, and when it can be dropped."""
    found: dict[str, Patch] = {}
    for place in context.places:
        for patch in context.subject.patches(place.device, place.machine):
            found.setdefault(patch.target, patch)
    for target, patch in sorted(found.items()):
        problems = list(_wordless(patch))
        yield Finding(
            case=target, status="failed" if problems else "passed", detail="; ".join(problems)
        )
    if not found:
        yield NOTHING


def _wordless(patch: Patch) -> Iterator[str]:
    ways = [way for way in (patch.replace, patch.seam, patch.environ) if way is not None]
    if len(ways) != 1:
        yield f"it does {len(ways)} of replace, seam and environ, not one"
    if len(patch.reason.split()) < FEWEST_WORDS:
        yield f"its reason is {patch.reason!r}: say what goes wrong without it"
    if not patch.upstream:
        yield "it names no upstream issue"
    if not patch.until:
        yield "it does not say when it can be dropped (until)"
    if patch.environ is None and not patch.distribution:
        yield "it names no distribution, so it is never skipped for a version it is not for"
    try:
        SpecifierSet(patch.versions)
    except InvalidSpecifier:
        yield f"its versions are no range: {patch.versions!r}"


def undo(context: Context) -> Iterator[Finding]:
    """Each alone, and all in three orders, applied and undone twice, in a fresh interpreter."""
    begin = time.monotonic()
    ran = False
    try:
        for answer in inside(
            "accel.testing.conformance.inside.mending:undo", context.entry, seconds=SECONDS
        ):
            if "tell" in answer:
                context.tell(answer["tell"])
                continue
            ran = True
            now = time.monotonic()
            yield Finding(**answer, seconds=now - begin)
            begin = now
    except Died as death:
        yield Finding(status="failed", detail=str(death))
        return
    if not ran:
        yield NOTHING
