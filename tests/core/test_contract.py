"""What a field may hold is what is written beside it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.contract import misfit
from accel.troubles import Finding
from accel.value import Value, field_names, replaced
from accel.values import Decision, Device, Feature, Impl, Patch, Probe, Stage
from fakes import device, impl

WHOLE: tuple[Value, ...] = (
    device(memory=1, driver="1", attributes={"a": 1}),
    impl(Feature.OP, "x", requires=("torch",), probe=Probe(function="a:b"), limits={"a": 1}),
    Patch(target="a:b", reason="c", replace=lambda original: original),
    Patch(target="os:environ", reason="c", environ={"A": None}),
    Decision(impl=impl(Feature.OP, "x"), accepted=True, stage=Stage.PROBED, reason="r"),
    Finding(id="i", severity="error", subject="s", evidence="e", command="c"),
)


@pytest.mark.parametrize("value", WHOLE, ids=lambda value: type(value).__name__)
def test_what_is_as_it_should_be_passes(value: Value) -> None:
    assert misfit(value) is None


@given(st.sampled_from(WHOLE), st.data())
def test_an_object_of_no_kind_at_all_is_found_in_every_field(value: Value, data: Any) -> None:
    name = data.draw(st.sampled_from(field_names(value)))
    said = misfit(replaced(value, **{name: object()}))
    assert said is not None
    assert said.startswith(f"{name} is object")


def test_every_field_of_a_plugins_values_is_understood() -> None:
    """A field whose annotation is none of those known would never be looked at."""
    for kind in (Device, Impl, Patch, Probe, Finding):
        made = object.__new__(kind)
        vars(made).update({name: object() for name in field_names(kind)})
        left = set(field_names(kind))
        while (said := misfit(made)) is not None:
            name = said.partition(" ")[0]
            left.remove(name)
            vars(made)[name] = next(
                getattr(one, name) for one in WHOLE_OF[kind] if hasattr(one, name)
            )
        assert left == set()


WHOLE_OF: dict[type[Value], list[Any]] = {
    Device: [WHOLE[0]],
    Impl: [WHOLE[1]],
    Patch: [WHOLE[2]],
    Probe: [Probe(function="a:b")],
    Finding: [WHOLE[5]],
}
