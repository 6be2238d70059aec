"""A report as plain data, schema `accel-report/1`: its keys are a promise to other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from accel.values import Decision, Feature, Note, Patch, as_json

if TYPE_CHECKING:
    from accel.planning import Plan
    from accel.reporting.content import EntryLike

SCHEMA = "accel-report/1"


def data(plan: Plan, notes: Sequence[Note], entries: Sequence[EntryLike]) -> dict[str, Any]:
    """Everything the other views show, and a little more: priorities, owners, confidence."""
    if entries:
        patches = [_patch(entry.patch, entry.state, entry.detail, entry.also) for entry in entries]
    else:
        patches = [_patch(patch, "planned", "", ()) for patch in plan.patches]
    return {
        "schema": SCHEMA,
        "machine": plan.machine,
        "here": plan.here,
        "simulated": plan.simulated,
        "device": device(plan.device),
        "devices": [device(found) for found in plan.devices],
        "chosen": {
            "attention": plan.attention,
            "dtype": plan.dtype,
            "collective": plan.collective,
            "quant": list(plan.quant),
        },
        "decisions": {
            feature.value: [_decision(decision) for decision in plan.of(feature)]
            for feature in Feature
        },
        "patches": patches,
        "notes": as_json(notes),
        "plugins": as_json(plan.plugins),
    }


def device(found: Any) -> dict[str, Any]:
    """A Device with the name that torch has for it, and whether torch can use it."""
    body: dict[str, Any] = as_json(found)
    return {"torch": found.torch_name, "usable": found.usable, **body}


def _decision(decision: Decision) -> dict[str, Any]:
    impl = decision.impl
    return {
        "name": decision.name,
        "accepted": decision.accepted,
        "stage": decision.stage.value,
        "proven": decision.proven,
        "reason": decision.reason,
        "note": impl.note,
        "source": impl.source,
        "confidence": impl.confidence,
        "priority": impl.priority,
        "requires": list(impl.requires),
        "limits": as_json(impl.limits),
        "owner": impl.owner,
    }


def _patch(patch: Patch, state: str, detail: str, also: Sequence[str]) -> dict[str, Any]:
    return {
        "target": patch.target,
        "how": patch.how,
        "state": state,
        "reason": patch.reason,
        "detail": detail,
        "also": list(also),
        "distribution": patch.distribution,
        "versions": patch.versions,
        "upstream": patch.upstream,
        "until": patch.until,
        "owner": patch.owner,
    }
