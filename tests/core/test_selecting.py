"""Which device is used, and what is said about the ones that are not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.errors import AmbiguousDevice, NoDevice, UnknownDevice
from accel.selecting import names_of, select
from accel.values import Device, Level
from fakes import HOST, FakeMachine, device

CARDS = tuple(device(index=i) for i in range(4))


def pick(devices: Any, wanted: str | None = None, claim: Device | None = None, **env: str) -> Any:
    return select(devices, wanted, FakeMachine(variables=env), lambda usable: claim)


def test_the_highest_priority_wins_and_the_host_comes_last() -> None:
    chosen, notes = pick((HOST, *CARDS))
    assert chosen == CARDS[0]
    assert notes == ()


def test_a_rank_takes_the_device_of_its_number() -> None:
    assert pick((HOST, *CARDS), LOCAL_RANK="2")[0].index == 2
    assert pick((HOST, *CARDS), LOCAL_RANK="9")[0].index == 0
    assert pick((HOST, *CARDS), "acme", LOCAL_RANK="3")[0].index == 3
    assert pick((HOST, *CARDS), "acme:1", LOCAL_RANK="3")[0].index == 1


def test_a_rank_without_a_device_of_its_own_is_told_so() -> None:
    for wanted in (None, "acme"):
        _, notes = pick((HOST, *CARDS), wanted, LOCAL_RANK="9")
        (note,) = [note for note in notes if "LOCAL_RANK" in note.message]
        assert note.level is Level.WARNING
        assert note.remedy == f"torchrun --nproc-per-node={len(CARDS)}"
    for devices, wanted, rank in (
        ((HOST, *CARDS), None, "3"),
        ((HOST, *CARDS), "acme:1", "9"),
        ((HOST, *CARDS), None, "-1"),
        ((HOST, CARDS[0]), None, "9"),  # as launchers do that show each rank its own device
        ((HOST,), None, "9"),
    ):
        _, notes = pick(devices, wanted, LOCAL_RANK=rank)
        assert not any("LOCAL_RANK" in note.message for note in notes)


def test_a_device_may_be_named_as_torch_has_it() -> None:
    torch = pytest.importorskip("torch")
    cards = [device(kind="cuda", index=n) for n in range(2)]
    assert pick((HOST, *cards), torch.device("cuda:1"))[0] is cards[1]
    with pytest.raises(UnknownDevice):
        pick((HOST, *cards), 3)  # type: ignore[arg-type]


def test_each_problem_of_cards_of_one_name_is_counted_by_itself() -> None:
    lost = [
        device(index=0, problem="no driver"),
        device(index=1, problem="no driver"),
        device(index=2, problem="fell off the bus"),
    ]
    _, notes = pick((HOST, *lost))
    assert [note.message[:12] for note in notes] == ["2 x Acme One", "1 x Acme One"]


def test_the_order_is_argument_then_variable_then_claim_then_priority() -> None:
    everything: dict[str, Any] = {"claim": CARDS[3]}
    assert pick((HOST, *CARDS), "acme:1", ACCEL_DEVICE="acme:2", **everything)[0].index == 1
    assert pick((HOST, *CARDS), ACCEL_DEVICE="acme:2", **everything)[0].index == 2
    assert pick((HOST, *CARDS), **everything)[0].index == 3
    assert pick((HOST, *CARDS))[0].index == 0


@given(st.sampled_from(sorted(names_of(CARDS[2]))), st.booleans())
def test_every_name_of_a_device_finds_one_like_it(name: str, upper: bool) -> None:
    chosen, _ = pick((HOST, *CARDS), name.upper() if upper else name)
    assert chosen in CARDS


@given(st.text(max_size=20))
def test_any_other_name_is_unknown_and_lists_what_is_here(name: str) -> None:
    known = names_of(HOST).union(*(names_of(card) for card in CARDS))
    if name.strip().lower() in known or not name:
        return
    with pytest.raises(UnknownDevice) as caught:
        pick((HOST, *CARDS), name)
    assert "acme:0" in str(caught.value)
    assert "accel devices" in str(caught.value)


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(UnknownDevice, match="did you mean 'acme:1'"):
        pick((HOST, *CARDS), "acne:1")


def test_one_name_for_two_vendors_is_ambiguous() -> None:
    rival = device(vendor="rival", name="Rival", pci_address="1")
    with pytest.raises(AmbiguousDevice, match="acme, rival"):
        pick((CARDS[0], rival), "acme:0")
    assert pick((CARDS[0], rival), "rival")[0] == rival


def test_a_device_that_torch_cannot_use_is_never_passed_over_in_silence() -> None:
    lost = device(problem="its driver is missing", remedy="install the driver")
    chosen, notes = pick((lost, HOST))
    assert chosen == HOST
    (note,) = notes
    assert note.level is Level.WARNING
    assert "its driver is missing" in note.message
    assert note.remedy == "install the driver"


def test_a_device_that_torch_cannot_use_is_an_error_where_asked_for() -> None:
    lost = device(problem="its driver is missing", remedy="install the driver")
    with pytest.raises(NoDevice) as caught:
        pick((lost, HOST), "acme")
    assert caught.value.remedy == "install the driver"
    assert "its driver is missing" in str(caught.value)


def test_another_vendors_card_in_the_box_is_mentioned() -> None:
    rival = device(vendor="rival", name="Rival", priority=50)
    chosen, notes = pick((CARDS[0], rival, HOST))
    assert chosen == CARDS[0]
    assert [(n.level, n.remedy) for n in notes] == [
        (Level.INFO, "device='rival' chooses the other")
    ]


def test_nothing_at_all_is_an_error_with_a_remedy() -> None:
    with pytest.raises(NoDevice, match="accel plugins"):
        pick(())
