"""What a simulated card is and lacks: from the facts of its own plugin, and from `cards.toml`."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from accel import pipeline
from accel.machine import Machine
from accel.values import Decision, Device, Feature
from accel_simulator.machine import SimulatedMachine

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the oldest Python we support
    import tomli as tomllib

REAL = ("cpu", "hpu", "ipu", "maia", "mps", "mtia", "ve", "vulkan", "xla")
"""torch device types that are no PrivateUse1 and have no stand-in: never simulated."""

KERNELS = {"sdpa_flash": 1, "sdpa_mem_efficient": 2, "sdpa_cudnn": 3}
"""accel's names of torch's fused attention kernels -> torch's numbers for them (SDPBackend)."""
OVERRIDEABLE = 4
"""The number of a kernel that a backend brings by itself, behind torch's own attention."""


@dataclasses.dataclass(frozen=True)
class Refused:
    """A dtype that the card lacks. `products` alone refuse it, or every operator."""

    dtype: str
    message: str
    products: bool


@dataclasses.dataclass(frozen=True)
class Library:
    """A collective backend: the dtypes and operations it lacks, and what it says of them."""

    name: str
    dtypes: tuple[str, ...]
    reductions_only: bool
    missing: tuple[str, ...]
    dtype_message: str
    missing_message: str


@dataclasses.dataclass(frozen=True)
class Card:
    """All devices of one torch type on a simulated machine; they are of one sort."""

    kind: str
    devices: tuple[Device, ...]
    refused: tuple[Refused, ...]
    dtypes: frozenset[str]
    attention: tuple[int, ...]
    attention_dtypes: tuple[str, ...]
    attention_error: str
    libraries: tuple[Library, ...]
    words: Mapping[str, Any]
    build: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def first(self) -> Device:
        return self.devices[0]


def simulatable(machine: Machine) -> tuple[Device, ...]:
    """The devices of a machine that torch could use there, and of a type that is simulated."""
    return tuple(d for d in pipeline.devices(machine) if d.usable and d.kind not in REAL)


def cards_of(machine: SimulatedMachine) -> tuple[Card, ...]:
    """One for each torch type that the machine has usable devices of.

    Raises InputError where the machine has fewer devices than are to be simulated.
    """
    usable = simulatable(machine)
    kinds = sorted({device.kind for device in usable})
    machine.check_count(max((sum(d.kind == k for d in usable) for k in kinds), default=0))
    found = []
    for kind in kinds:
        devices = sorted((d for d in usable if d.kind == kind), key=lambda device: device.index)
        plan = pipeline.plan(devices[0].torch_name, machine=machine, probe=False)
        found.append(_card(kind, tuple(devices), plan.decisions, machine))
    return tuple(found)


def _card(
    kind: str, devices: tuple[Device, ...], decisions: Sequence[Decision], machine: SimulatedMachine
) -> Card:
    from accel.detecting import torch_build

    words: Mapping[str, Any] = facts()["kind"].get(kind) or _plain(kind)
    refused = tuple(_refused(devices[0]))
    dtypes = frozenset(d.name for d in decisions if d.feature is Feature.DTYPE and d.accepted)
    bridge = words["bridge"]
    return Card(
        kind=kind,
        devices=devices,
        refused=refused,
        dtypes=dtypes,
        attention=_attention(kind, decisions),
        attention_dtypes=("float16", "float32", *(["bfloat16"] if "bfloat16" in dtypes else [])),
        attention_error=_attention_error(decisions),
        libraries=tuple(_libraries(decisions)),
        words=words,
        build=torch_build(machine),
        versions={bridge: machine.version(bridge) or "0"} if bridge else {},
    )


def _plain(kind: str) -> dict[str, Any]:
    """The words for a device type that no facts here know: a stranger's, by its own name."""
    word = kind.upper()
    return {
        "memory_word": word,
        "allocator_setting": f"PYTORCH_{word}_ALLOC_CONF",
        "lost_error": f"the {word} is lost (in the simulator's words; the vendor's are not known)",
        "lost_code": 1,
        "bridge": "",
    }


def _refused(device: Device) -> list[Refused]:
    return [
        Refused(each["dtype"], each["message"], each.get("products", False))
        for each in facts()["refusal"]
        if each["kind"] == device.kind
        and (not each.get("families") or device.family in each["families"])
    ]


def _attention(kind: str, decisions: Sequence[Decision]) -> tuple[int, ...]:
    """torch's fused kernels that the card has, best first."""
    fused = [
        (decision.impl.priority, KERNELS[decision.name])
        for decision in decisions
        if decision.feature is Feature.OP and decision.name in KERNELS and decision.accepted
    ]
    own = [number for _, number in sorted(fused, reverse=True)]
    if kind != "cuda" and any(
        d.feature is Feature.ATTENTION and d.name == "sdpa" and d.accepted for d in decisions
    ):
        own.append(OVERRIDEABLE)
    return tuple(own)


def _attention_error(decisions: Sequence[Decision]) -> str:
    """What torch's attention raises, where it is built to hand over to a library that is absent."""
    for decision in decisions:
        if decision.feature is Feature.ATTENTION and decision.name == "sdpa":
            raised = re.search(r"raises '([^']+)'", decision.reason)
            if not decision.accepted and raised:
                return raised[1]
    return ""


def _libraries(decisions: Sequence[Decision]) -> list[Library]:
    found = []
    for decision in decisions:
        known = facts()["collective"].get(decision.name)
        if decision.feature is not Feature.COLLECTIVE or not decision.accepted or known is None:
            continue
        limits = decision.impl.limits
        found.append(
            Library(
                name=decision.name,
                dtypes=(*limits.get("refuses_dtypes", ()), *known.get("refuses", ())),
                reductions_only="reduction" in limits.get("refuses_for", ""),
                missing=tuple(limits.get("missing_ops", ())),
                dtype_message=known["dtype_message"],
                missing_message=known["missing_message"],
            )
        )
    return found


def processors(device: Device) -> int | None:
    """Streaming multiprocessors (compute units) of a card; None where no fact says."""
    for each in facts()["processors"]:
        if each["arch"] == device.arch and device.name.startswith(each["name"]):
            return int(each["count"])
    return None


@functools.cache
def facts() -> Mapping[str, Any]:
    """`cards.toml`."""
    text = importlib.resources.files("accel_simulator").joinpath("cards.toml").read_text("utf-8")
    found: dict[str, Any] = tomllib.loads(text)
    return found
