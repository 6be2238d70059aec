"""Facts files: what is read, what is inherited, and that a mistake is named by its place."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.errors import PluginContractError
from accel.facts import load_facts, parse_facts
from accel.values import Feature

TEXT = """
schema = 1
[sources]
handbook = "Acme handbook"
[implementations.attention.flash]
priority = 60
requires = ["flash-attn>=2.5.6"]
probe = { function = "accel.probes:sdpa", arguments = { dtype = "float16" } }
[arch.x1]
family = "first"
smem_kib = 64
attention.flash = { source = "handbook" }
dtype.float16 = {}
[arch.x2]
like = "x1"
attention.flash = { unavailable = "why not" }
op.compile = { priority = 3 }
[cards]
"0001" = "x1"
"""


def test_an_architecture_has_what_it_names_and_what_it_is_like() -> None:
    facts = parse_facts(TEXT, "acme/facts.toml")
    assert list(facts.archs) == ["x1", "x2"]
    assert facts.extra["cards"] == {"0001": "x1"}
    assert facts.arch("x3") is None
    first, second = facts.archs["x1"], facts.archs["x2"]
    assert (first.family, second.family) == ("first", "first")
    assert dict(second.extra) == {"smem_kib": 64}
    flash = next(impl for impl in first.impls if impl.name == "flash")
    assert (flash.priority, flash.requires) == (60, ("flash-attn>=2.5.6",))
    assert (flash.source, flash.feature) == ("Acme handbook", Feature.ATTENTION)
    assert flash.probe is not None
    assert flash.probe.arguments == {"dtype": "float16"}
    names = {(impl.name, impl.unavailable) for impl in second.impls}
    assert names == {("flash", "why not"), ("float16", None), ("compile", None)}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("schema = 1", "schema = 2", "unknown schema"),
        ("schema = 1", "schema = ", "not valid TOML"),
        ('requires = ["flash-attn>=2.5.6"]', 'requires = "flash-attn"', "requires must be a list"),
        ('requires = ["flash-attn>=2.5.6"]', "requires = [2]", "requires is tuple"),
        ("priority = 60", 'priority = "high"', "priority is str 'high', not int"),
        ("priority = 60", "prioritie = 60", "has a field that is not known"),
        (
            'attention.flash = { source = "handbook" }',
            'attentions.flash = { source = "handbook" }',
            "arch.x1.attentions lists implementations of a feature",
        ),
        ("attention.flash]", "atention.flash]", "implementations.atention lists"),
        ('arguments = { dtype = "float16" }', "argument = 1", "arch.x1 is not as it should be"),
        ('arguments = { dtype = "float16" }', "arguments = 1", "probe.arguments is int 1"),
        ('source = "handbook"', 'source = "hearsay"', "[sources] lacks: hearsay"),
        ('like = "x1"', 'like = "x2"', "which cannot be"),
        ('like = "x1"', 'like = "x9"', "which cannot be"),
        ("dtype.float16 = {}", "dtype = 3", "arch.x1 is not as it should be"),
        ("dtype.float16 = {}", "dtype.float16 = 3", "arch.x1 is not as it should be"),
        ("[sources]\n", "sources = 3\n[more]\n", "[sources] must be a table"),
    ],
)
def test_a_mistake_is_named_by_its_place(old: str, new: str, said: str) -> None:
    assert old in TEXT
    with pytest.raises(PluginContractError) as caught:
        parse_facts(TEXT.replace(old, new), "acme/facts.toml")
    assert "acme/facts.toml" in str(caught.value)
    assert said in str(caught.value)


WORDS = ["like", "family", "attention", "flash", "requires", "probe", "source", "priority", "x1"]
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab-. ", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
    ),
    max_leaves=6,
)


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, bool) or value is None:
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


@given(st.dictionaries(st.sampled_from(["x1", "x2"]), plain, max_size=2), plain)
def test_whatever_stands_in_a_file_is_read_or_refused(archs: dict[str, Any], common: Any) -> None:
    text = f"schema = 1\nimplementations = {written(common)}\narch = {written(archs)}\n"
    with contextlib.suppress(PluginContractError):  # and nothing else
        assert set(parse_facts(text, "acme").archs) == set(archs)


def test_a_package_without_facts_is_refused_for_people() -> None:
    with pytest.raises(PluginContractError, match="accel has no no-such-facts"):
        load_facts("accel", "no-such-facts.toml")
