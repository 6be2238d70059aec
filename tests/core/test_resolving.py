"""declared, installed, probed: each stage can reject, with its reason."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.errors import CapabilityUnavailable
from accel.resolving import Capabilities, key_of
from accel.values import Feature, Impl, Level, Probe, Stage
from fakes import FakeMachine, device, impl

PROBE = Probe(function="tests:probe")
ATTENTION, DTYPE = Feature.ATTENTION, Feature.DTYPE


@dataclasses.dataclass(frozen=True)
class Outcome:
    passed: bool
    detail: str = "measured"


class FakeProber:
    """Passes everything but what is in `failing`; remembers the batches it was given."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.batches: list[list[str]] = []

    def __call__(self, impls: Sequence[Impl]) -> Mapping[str, Outcome]:
        self.batches.append([i.name for i in impls])
        return {key_of(i): Outcome(i.name not in self.failing, f"probed {i.name}") for i in impls}


DECLARED = [
    impl(
        ATTENTION,
        "fused",
        priority=30,
        requires=("fused-kernels>=2",),
        probe=PROBE,
        because="it is theirs",
    ),
    impl(ATTENTION, "sdpa", priority=20, probe=PROBE),
    impl(ATTENTION, "eager", priority=10, probe=PROBE),
    impl(ATTENTION, "flashy", unavailable="the card is too old"),
    impl(DTYPE, "bfloat16", priority=20, probe=PROBE),
    impl(DTYPE, "float32", priority=10, probe=PROBE),
]


def capabilities(
    *failing: str,
    installed: Mapping[str, str] | None = None,
    wanted: Mapping[Feature, str] | None = None,
    strict: bool = False,
) -> tuple[Capabilities, FakeProber]:
    prober = FakeProber(*failing)
    machine = FakeMachine(installed=installed or {})
    made = Capabilities(device(), DECLARED, machine, prober=prober, wanted=wanted, strict=strict)
    return made, prober


def best(caps: Capabilities, feature: Feature = ATTENTION) -> str | None:
    decision = caps.best(feature)
    return None if decision is None else decision.name


def test_each_stage_rejects_with_its_own_reason() -> None:
    caps, _ = capabilities("sdpa")
    caps.prove_all()
    verdicts = {d.name: (d.accepted, d.stage, d.reason) for d in caps.of(ATTENTION)}
    assert verdicts["flashy"] == (False, Stage.DECLARED, "the card is too old")
    assert verdicts["fused"] == (
        False,
        Stage.INSTALLED,
        "needs fused-kernels>=2, which is not installed: it is theirs",
    )
    assert verdicts["sdpa"] == (False, Stage.PROBED, "probed sdpa")
    assert verdicts["eager"] == (True, Stage.PROBED, "probed eager")


@pytest.mark.parametrize(
    ("installed", "expected"),
    [({}, "sdpa"), ({"fused-kernels": "1.9"}, "sdpa"), ({"fused-kernels": "2.1"}, "fused")],
)
def test_the_best_is_what_is_installed(installed: dict[str, str], expected: str) -> None:
    assert best(capabilities(installed=installed)[0]) == expected


def test_the_best_is_what_passes_its_probe() -> None:
    assert best(capabilities("sdpa")[0]) == "eager"
    assert best(capabilities("sdpa", "eager")[0]) is None


def test_only_what_is_needed_is_probed_and_several_features_share_a_child() -> None:
    caps, prober = capabilities()
    caps.choose([ATTENTION, DTYPE])
    assert prober.batches == [["sdpa", "bfloat16"]]
    caps.choose([ATTENTION, DTYPE])
    assert len(prober.batches) == 1


def test_without_a_prober_decisions_stay_at_installed() -> None:
    caps = Capabilities(device(), DECLARED, FakeMachine())
    decision = caps.best(ATTENTION)
    assert decision is not None
    assert decision.stage is Stage.INSTALLED
    assert not decision.proven


def test_what_the_user_chose_is_had_or_is_an_error() -> None:
    assert best(capabilities(wanted={ATTENTION: "eager"})[0]) == "eager"
    with pytest.raises(CapabilityUnavailable) as caught:
        best(capabilities("eager", wanted={ATTENTION: "eager"})[0])
    assert "probed eager" in str(caught.value)
    with pytest.raises(CapabilityUnavailable, match=r"too old"):
        best(capabilities(wanted={ATTENTION: "flashy"})[0])
    with pytest.raises(CapabilityUnavailable, match=r"did you mean 'sdpa'"):
        best(capabilities(wanted={ATTENTION: "spda"})[0])
    with pytest.raises(CapabilityUnavailable, match=r"pip install 'fused-kernels>=2'"):
        best(capabilities(wanted={ATTENTION: "fused"})[0])


def test_a_library_that_asks_for_what_is_there_gets_it_without_a_word() -> None:
    caps, _ = capabilities()
    assert caps.settle(ATTENTION, "eager", asked_by="a library") == "eager"
    assert caps.notes == ()


def test_a_library_that_asks_for_what_is_not_there_goes_down_with_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caps, _ = capabilities()
    with caplog.at_level(logging.WARNING, logger="accel"):
        for _ in range(3):
            assert caps.settle(ATTENTION, "flashy", asked_by="model.yaml") == "sdpa"
    (note,) = caps.notes
    assert note.level is Level.DOWNGRADE
    assert note.subject == "model.yaml"
    assert "flashy was asked for, sdpa is used" in note.message
    assert "the card is too old" in note.message
    assert len(caplog.records) == 1


def test_under_strict_it_is_an_error() -> None:
    caps, _ = capabilities(strict=True)
    with pytest.raises(CapabilityUnavailable) as caught:
        caps.settle(ATTENTION, "flashy", asked_by="model.yaml")
    assert "model.yaml" in str(caught.value)
    assert "too old" in str(caught.value)


def test_what_the_user_chose_comes_before_what_a_library_asks_for() -> None:
    caps, _ = capabilities(wanted={ATTENTION: "eager"}, strict=True)
    assert caps.settle(ATTENTION, "sdpa", asked_by="a library") == "eager"
    assert [note.level for note in caps.notes] == [Level.INFO]


@given(
    priorities=st.lists(st.integers(-5, 5), min_size=1, max_size=6),
    failing=st.sets(st.integers(0, 5)),
)
def test_the_best_always_has_the_highest_priority_of_those_that_pass(
    priorities: list[int], failing: set[int]
) -> None:
    impls = [impl(ATTENTION, f"n{i}", priority=p, probe=PROBE) for i, p in enumerate(priorities)]
    prober = FakeProber(*(f"n{i}" for i in failing))
    caps = Capabilities(device(), impls, FakeMachine(), prober=prober)
    passing = [p for i, p in enumerate(priorities) if i not in failing]
    decision = caps.best(ATTENTION)
    assert (decision.impl.priority if decision else None) == max(passing, default=None)
    probed = [name for batch in prober.batches for name in batch]
    assert len(probed) == len(set(probed))


def test_two_providers_of_one_name_are_two_decisions() -> None:
    impls = [
        impl(Feature.QUANT, "w4", priority=2, owner="a", probe=PROBE, requires=("absent",)),
        impl(Feature.QUANT, "w4", priority=1, owner="b", probe=PROBE),
    ]
    caps = Capabilities(device(), impls, FakeMachine(), prober=FakeProber())
    assert caps.require(Feature.QUANT, "w4").impl.owner == "b"


@pytest.mark.parametrize(
    ("requirement", "installed"),
    [("not valid ]", {}), ("torch>=banana", {"torch": "2.7.0"}), ("torch>=2;(", {"torch": "2"})],
)
def test_a_requirement_that_is_none_rejects_its_own_implementation_alone(
    requirement: str, installed: dict[str, str]
) -> None:
    impls = [
        impl(ATTENTION, "mistyped", priority=2, requires=(requirement,)),
        impl(ATTENTION, "sound", priority=1, requires=("torch>=2",)),
    ]
    caps = Capabilities(device(), impls, FakeMachine(installed={"torch": "2.7.0", **installed}))
    best = caps.best(ATTENTION)
    assert best is not None
    assert best.name == "sound"
    (mistyped,) = [one for one in caps.decisions if one.name == "mistyped"]
    assert "cannot be compared" in mistyped.reason


def test_choosing_ends_even_where_what_was_required_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`require` promises an accepted decision; `choose` must not hang on that promise."""
    made, _ = capabilities(wanted={ATTENTION: "flashy"})
    (rejected,) = [one for one in made.decisions if one.name == "flashy"]
    monkeypatch.setattr(made, "require", lambda feature, name: rejected)
    assert made.choose([ATTENTION, DTYPE])[ATTENTION] is None


@given(st.lists(st.integers(0, 3), max_size=6), st.sets(st.integers(0, 5)))
def test_choosing_asks_of_each_implementation_once(
    priorities: list[int], failing: set[int]
) -> None:
    impls = [
        impl(ATTENTION, f"a{number}", priority=priority, probe=PROBE)
        for number, priority in enumerate(priorities)
    ]
    prober = FakeProber(*(f"a{number}" for number in failing))
    made = Capabilities(device(), impls, FakeMachine(), prober=prober)
    best = made.choose([ATTENTION, ATTENTION])[ATTENTION]
    asked = [name for batch in prober.batches for name in batch]
    assert len(asked) == len(set(asked))
    left = [one for one in impls if int(one.name[1:]) not in failing]
    expected = min(left, key=lambda one: (-one.priority, one.name), default=None)
    assert (best and best.name) == (expected and expected.name)
