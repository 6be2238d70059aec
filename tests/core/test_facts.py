"""Facts files: what is wrong in one is said by its place, and nothing is passed over in silence."""

from __future__ import annotations

import pytest

from accel.errors import PluginContractError
from accel.facts import parse_facts
from accel.values import Feature

SOUND = """
schema = 1
[sources]
guide = "the guide"
[implementations.dtype.float32]
priority = 50
[implementations.attention.eager]
[arch.a1]
family = "a"
lanes = { fast = 8 }
[arch.a1.dtype]
float32 = { source = "guide" }
[arch.a1.attention]
eager = { unavailable = "it has no attention" }
"""


def test_what_is_of_a_feature_is_its_own_and_the_rest_the_plugins() -> None:
    facts = parse_facts(SOUND, "a/facts.toml").arch("a1")
    assert facts is not None
    assert [(impl.feature, impl.name, impl.source) for impl in facts.impls] == [
        (Feature.DTYPE, "float32", "the guide"),
        (Feature.ATTENTION, "eager", ""),
    ]
    assert dict(facts.extra) == {"lanes": {"fast": 8}}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "[arch.a1.dtype]",
            "[arch.a1.dtypes]",
            "arch.a1.dtypes lists implementations of a feature",
        ),
        ("[implementations.dtype.", "[implementations.dtpe.", "implementations.dtpe lists"),
        ('source = "guide"', 'source = "gide"', "names a source that .sources. lacks: gide"),
        ("unavailable", "unavailabel", "has a field that is not known"),
        ("schema = 1", "schema = 2", "unknown schema"),
        ("schema = 1", "schema =", "not valid TOML"),
        ('family = "a"', 'like = "a2"', "is like 'a2', which cannot be"),
    ],
)
def test_what_is_wrong_is_said_by_its_place(old: str, new: str, says: str) -> None:
    assert old in SOUND
    with pytest.raises(PluginContractError, match=says) as caught:
        parse_facts(SOUND.replace(old, new), "a/facts.toml")
    assert "a/facts.toml" in str(caught.value)
