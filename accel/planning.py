"""A Plan: everything `auto()` would decide, as a value that can be printed, compared and saved."""

from __future__ import annotations

from collections.abc import Mapping

from accel.errors import InputError
from accel.value import Value
from accel.values import (
    Decision,
    Device,
    Feature,
    Impl,
    Level,
    Note,
    Patch,
    PluginInfo,
    Probe,
    Stage,
    as_json,
)

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")

SCHEMA = "accel-plan/1"


class Plan(Value):
    """What was found on `machine`, what was decided, and what would be patched.

    `attention`, `dtype` and `collective` are names as in the decisions; None where there is none.
    `quant` are the quantised-weight implementations that can be had, best first.
    """

    machine: str
    here: bool
    device: Device
    devices: tuple[Device, ...]
    decisions: tuple[Decision, ...]
    attention: str | None
    dtype: str | None
    collective: str | None
    quant: tuple[str, ...]
    patches: tuple[Patch, ...]
    plugins: tuple[PluginInfo, ...]
    notes: tuple[Note, ...]
    simulated: bool = False
    """Whether the device only stands in for a real one: what was probed is then not measured."""

    def of(self, feature: Feature) -> tuple[Decision, ...]:
        """The decisions on one feature, best first."""
        return tuple(decision for decision in self.decisions if decision.feature is feature)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`; a patch keeps its words and loses its functions."""
        body: dict[str, Any] = as_json(self)
        return {"schema": SCHEMA, **body}

    @classmethod
    def from_json(cls, document: Any) -> Plan:
        """The Plan that `to_json` wrote. Raises InputError on anything else."""
        if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
            schema = document.get("schema") if isinstance(document, Mapping) else None
            raise InputError(
                "this is not a saved plan",
                found=f"schema {schema!r}, not {SCHEMA!r}",
                remedy="accel plan --json > plan.json",
            )
        body = {key: value for key, value in document.items() if key != "schema"}
        try:
            return _build(cls, body)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(
                "this saved plan is damaged",
                found=str(error),
                remedy="accel plan --json > plan.json",
            ) from None


_NESTED: dict[str, type[Any]] = {
    "device": Device,
    "devices": Device,
    "decisions": Decision,
    "impl": Impl,
    "probe": Probe,
    "patches": Patch,
    "plugins": PluginInfo,
    "notes": Note,
}
_ENUMS: dict[str, type[Any]] = {"feature": Feature, "stage": Stage, "level": Level}


def _build(kind: type[T], document: Mapping[str, Any]) -> T:
    return kind(**{key: _value(key, value) for key, value in document.items()})


def _value(key: str, value: Any) -> Any:
    if value is None:
        return None
    if key in _ENUMS:
        return _ENUMS[key](value)
    if key in _NESTED:
        nested = _NESTED[key]
        if isinstance(value, list):
            return tuple(_build(nested, item) for item in value)
        return _build(nested, value)
    return tuple(value) if isinstance(value, list) else value
