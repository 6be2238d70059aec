"""Names of machines and faults, and the machine that stands in: no compiler."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import accel
from accel import testing
from accel.cli import main
from accel.errors import AccelError, InputError
from accel.machine import ThisMachine
from accel_simulator import command, faults
from accel_simulator.cards import cards_of, simulatable
from accel_simulator.machine import SimulatedMachine
from accel_simulator.naming import parse_spec

SHORT = {
    "ascend-910b2": ("ascend-910b2-x8", 1),
    "ascend-910a": ("ascend-910a", 1),
    "hygon-k100ai": ("hygon-k100ai-x8", 1),
    "tesla-p4": ("tesla-p4-x4", 1),
    "gb10": ("dgx-spark", 1),
    "mlu590": ("cambricon-mlu590", 1),
    "s4000": ("moore-s4000", 1),
    "mi300x": ("mi300x", 1),
    "V100": ("v100", 1),
    "t4": ("t4", 1),
    "tesla-p4-x4": ("tesla-p4-x4", None),
    "tesla-p4-x4:2": ("tesla-p4-x4", 2),
    "910b2:8": ("ascend-910b2-x8", 8),
}


@pytest.mark.parametrize("name", SHORT)
def test_short_names(name):
    chosen = parse_spec(name)
    assert (chosen.machine, chosen.count) == SHORT[name]
    assert parse_spec(chosen.spec) == chosen


def test_a_name_that_is_none_says_what_is_near():
    with pytest.raises(InputError, match="did you mean 'mlu590'"):
        parse_spec("mlu59")
    with pytest.raises(InputError, match=r"called 'nope'\n.*\n  try:   accel simulate$"):
        parse_spec("nope")
    with pytest.raises(InputError, match="how many devices"):
        parse_spec("t4:0")


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (["no-such-program"], "pip install no-such-program"),
        (["train.py"], "accel simulate MACHINE -- python train.py"),
        (["./folder"], "ls -ld './folder'"),
        (["--"], "accel simulate MACHINE -- python train.py"),
    ],
)
def test_a_command_that_is_none_says_what_to_try(given, remedy):
    with pytest.raises(InputError) as caught:
        command._found(given)
    assert caught.value.remedy == remedy


def test_a_command_needs_a_machine(capsys):
    assert main(["simulate", "", "--", "python"]) == 2
    assert "no machine to simulate is called ''" in capsys.readouterr().err


@given(st.text(max_size=30))
def test_any_text_is_a_machine_or_an_input_error(text):
    with contextlib.suppress(InputError):
        assert parse_spec(text).machine in testing.machines()


@given(
    st.lists(st.tuples(st.sampled_from(sorted(faults.COUNTED)), st.integers(1, 10**9)), max_size=3),
    st.sampled_from([None, *faults.DRIVERS]),
)
def test_faults_are_read_as_they_are_written(counts, driver):
    wanted = faults.Faults(tuple((name, number - 1) for name, number in counts), driver)
    assert faults.parse(wanted.text) == wanted


@given(st.text(max_size=20))
def test_any_text_is_a_fault_or_an_input_error(text):
    with contextlib.suppress(InputError):
        assert faults.parse(faults.parse(text).text) == faults.parse(text)


def simulated(spec: str, fault: str = "") -> SimulatedMachine:
    return SimulatedMachine.of(parse_spec(spec), ThisMachine(), faults.parse(fault))


@pytest.mark.parametrize("name", testing.machines())
def test_every_machine_plans_as_its_recording_does(name, monkeypatch):
    monkeypatch.setenv("ACCEL_PROBE", "0")
    recorded = accel.plan(machine=name)
    plan = accel.plan(machine=simulated(name), probe=False)
    assert (plan.device.name, plan.device.arch) == (recorded.device.name, recorded.device.arch)
    assert plan.simulated
    assert not recorded.simulated


@pytest.mark.parametrize("name", ["apple-m2-max", "kunpeng-920", "nvidia-driver-missing"])
def test_a_machine_without_anything_to_simulate_says_so_and_is_not_listed(name, capsys):
    with pytest.raises(InputError, match=f"{name} has no device to simulate"):
        cards_of(simulated(name))
    assert command.simulate() == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert name not in listed
    assert all(cards_of(simulated(other)) for other in listed)


def test_cards_know_what_they_lack(monkeypatch):
    (card,) = cards_of(simulated("ascend-910a"))
    assert {refused.dtype for refused in card.refused} == {"bfloat16", "float64"}
    assert [library.name for library in card.libraries] == ["hccl"]
    assert "float64" in card.libraries[0].dtypes
    assert card.libraries[0].reductions_only
    (card,) = cards_of(simulated("hygon-k100ai"))
    assert card.attention_error == "No matching libraries found"
    (card,) = cards_of(simulated("tesla-p4-x4"))
    assert len(card.devices) == 4
    assert card.attention == (2,)
    with pytest.raises(InputError, match="has no 9 devices"):
        cards_of(simulated("ascend-910b2-x8:9"))
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "1,2")
    (card,) = cards_of(simulated("ascend-910b2-x8"))
    assert len(card.devices) == 2


def test_a_driver_that_answers_nonsense_is_a_problem_and_no_crash():
    found = accel.devices(simulated("tesla-p4", "driver=nonsense"))
    cards = [device for device in found if device.kind == "cuda"]
    assert cards
    assert not any(device.usable for device in cards)


def test_a_simulation_that_cannot_be_is_an_error_and_never_this_machine(monkeypatch):
    monkeypatch.setenv("ACCEL_SIMULATE", "no-such-card")
    with pytest.raises(InputError, match="no-such-card"):
        accel.devices()


def test_nothing_provides_a_simulation_without_the_plugin(monkeypatch):
    from accel.loading import Plugins
    from accel.simulating import host, provider

    monkeypatch.setenv("ACCEL_SIMULATE", "t4:1")
    none = Plugins(found=[])
    with pytest.raises(AccelError, match="no plugin here provides it"):
        host(none)
    with pytest.raises(AccelError, match="no plugin here provides it"):
        provider(none, "t4", None, None)


def test_the_stand_in_is_only_for_a_simulation():
    import importlib

    from accel_simulator.standins import folders, python_path

    assert folders(["cuda"]) == []
    (folder,) = folders(["npu"])
    assert python_path("before", ["npu"]) == f"before{os.pathsep}{folder}"
    pytest.importorskip("torch")
    with pytest.raises(ImportError, match="only stands in"):
        importlib.import_module("accel_simulator.standins.npu.torch_npu")


@pytest.mark.parametrize("name", testing.machines())
def test_one_device_of_any_machine(name):
    if not simulatable(testing.machine(name)):
        pytest.skip("has nothing to simulate")
    machine = SimulatedMachine.of(parse_spec(f"{name}:1"), ThisMachine(), faults.Faults())
    assert {len(card.devices) for card in cards_of(machine)} == {1}
