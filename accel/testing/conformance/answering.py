"""answer.*: hooks answer as they are specified, always the same, and by the machine alone."""

from __future__ import annotations

import os
from collections.abc import Iterator

from accel import pipeline
from accel.testing.conformance.context import Context
from accel.testing.conformance.isolated import Died, one
from accel.testing.conformance.results import Finding

SECONDS = 300.0
_INSIDE = "accel.testing.conformance.inside.answering"


def contract(context: Context) -> Iterator[Finding]:
    """Every hook, on every recorded machine: nothing raised, nothing hung, the right types."""
    subject = context.subject
    known = subject.alone
    for place in context.places:
        subject.impls(place.device, place.machine)
        subject.patches(place.device, place.machine)
    for machine in (*subject.machines.values(), context.here):
        pipeline.detect(known, machine)
    problems = sorted({note.message for note in known.failures})
    for number, problem in enumerate(problems, 1):
        yield Finding(case=str(number), status="failed", detail=problem)
    if not problems:
        yield Finding(detail=f"on {len(subject.machines)} recorded machines and this one")


def twice(context: Context) -> Iterator[Finding]:
    """In one interpreter, and in another with another order of sets."""
    seeds = ("1", "2")
    try:
        answers = [
            one(
                f"{_INSIDE}:repeated",
                {**context.entry, "way": "again"},
                seconds=SECONDS,
                env={"PYTHONHASHSEED": seed},
            )
            for seed in seeds
        ]
    except Died as death:
        yield Finding(status="failed", detail=str(death))
        return
    yield from _differences(answers[0], "the second time")
    digests = [answer["first"] for answer in answers]
    changed = sorted(name for name in digests[0] if digests[0][name] != digests[1].get(name))
    yield Finding(
        case="another interpreter",
        status="failed" if changed else "passed",
        detail=f"differs in another interpreter, on {', '.join(changed)}" if changed else "",
    )


def thread(context: Context) -> Iterator[Finding]:
    """In a thread that is not the main one."""
    yield from _repeated(context, "thread", "in a thread")


def fork(context: Context) -> Iterator[Finding]:
    """In a forked child, where locks and threads of the parent are gone."""
    if not hasattr(os, "fork"):
        yield Finding(status="skipped", detail=f"there is no fork on {os.name}")
        return
    yield from _repeated(context, "fork", "after fork")


def _repeated(context: Context, way: str, words: str) -> Iterator[Finding]:
    try:
        answer = one(f"{_INSIDE}:repeated", {**context.entry, "way": way}, seconds=SECONDS)
    except Died as death:
        yield Finding(status="failed", detail=f"{words}: {death}")
        return
    yield from _differences(answer, words)


def _differences(answer: dict[str, dict[str, str]], words: str) -> Iterator[Finding]:
    changed = sorted(k for k in answer["first"] if answer["first"][k] != answer["second"].get(k))
    yield Finding(
        status="failed" if changed else "passed",
        detail=f"differs {words}, on {', '.join(changed)}"
        if changed
        else f"on {len(answer['first'])} machines",
    )


def machine(context: Context) -> Iterator[Finding]:
    """On a recorded machine no variable, file, library or program of this one is touched."""
    try:
        answer = one(f"{_INSIDE}:watched", context.entry, seconds=SECONDS)
    except Died as death:
        yield Finding(status="failed", detail=str(death))
        return
    touched = answer["touched"]
    yield Finding(
        status="failed" if touched else "passed",
        detail=f"asked this machine, while a recorded one was given: {', '.join(touched)}"
        if touched
        else "",
    )
