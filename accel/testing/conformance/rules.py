"""The rules: what the suite asks of a plugin, in the order in which it asks.

A rule yields a Finding for each of its cases. One that needs the device is asked only where it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

from accel.testing.conformance import (
    answering,
    claiming,
    collecting,
    computing,
    declaring,
    loading,
    mending,
    probing,
    running,
)
from accel.testing.conformance.context import Context
from accel.testing.conformance.results import Finding

Needs = Literal["nothing", "loading", "device"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """`id` is what a result and an expected failure name it by; `says` is the rule in words.

    `needs` is what must be there before it can be asked: nothing (it is asked of a plugin that may
    not even load), a plugin that loads, or the device itself.
    """

    id: str
    says: str
    needs: Needs
    check: Callable[[Context], Iterator[Finding]]


RULES: tuple[Rule, ...] = (
    Rule("load.hooks", "loads, and implements hooks that there are", "nothing", loading.hooks),
    Rule(
        "load.light", "loads and detects without torch, leaves no thread", "nothing", loading.light
    ),
    Rule("load.time", "loads in under 50 ms", "nothing", loading.fast),
    Rule(
        "answer.contract", "answers its hooks as they are specified", "loading", answering.contract
    ),
    Rule("claim.own", "claims its hardware on its own recorded machines", "loading", claiming.own),
    Rule("claim.only", "claims nothing else on any recorded machine", "loading", claiming.only),
    Rule("claim.values", "describes a device in sound values", "loading", claiming.values),
    Rule("answer.twice", "answers the same twice", "loading", answering.twice),
    Rule("answer.thread", "answers the same in a thread", "loading", answering.thread),
    Rule("answer.fork", "answers the same after fork", "loading", answering.fork),
    Rule("answer.machine", "asks only the machine it is given", "loading", answering.machine),
    Rule("probe.declared", "has a probe for everything it declares", "loading", declaring.probes),
    Rule("probe.fails", "its probes refuse wrong numbers", "loading", probing.fails),
    Rule("probe.passes", "its probes pass on the device", "device", probing.passes),
    Rule("dtype.computes", "computes in every dtype it declares", "device", computing.computes),
    Rule(
        "runtime.device", "device numbers and contexts keep their meaning", "device", running.device
    ),
    Rule("runtime.memory", "memory calls keep their meaning", "device", running.memory),
    Rule("runtime.stream", "streams keep their meaning", "device", running.stream),
    Rule("runtime.event", "events keep their meaning", "device", running.event),
    Rule("runtime.random", "random numbers can be repeated", "device", running.random),
    Rule("collective.sums", "collectives give the right sums", "device", collecting.sums),
    Rule(
        "patch.words",
        "its patches say why, for which versions, until when",
        "loading",
        mending.words,
    ),
    Rule("patch.undo", "its patches apply and undo to the same objects", "loading", mending.undo),
    Rule(
        "error.remedy", "its problems and refusals name the remedy", "loading", declaring.remedies
    ),
)
BY_ID = {rule.id: rule for rule in RULES}
