"""`accel doctor`: each trouble that a plugin knows is found where it is, and only there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from diseases import CASES, Case, box, env, only_nodes
from hypothesis import given
from hypothesis import strategies as st

from accel import doctor, testing
from accel.doctor import Finding, examine
from accel.doctor.mending import plan
from accel.recording import RecordedMachine
from accel.troubles import Trouble
from accel.values import as_json
from accel_ascend.doctoring import VISIBLE
from accel_frameworks.doctoring.surroundings import is_vendors, shm_size
from accel_nvidia.doctoring import runs_on

GOLDEN = Path(__file__).parents[1] / "golden" / "doctor"
MACHINES = testing.machines()
OWN = {
    "torch-missing torch-broken torch-backend-broken no-device device-unusable plugin-broken",
    "companion-broken cache-unusable rule-broken",
}
"""accel's own troubles; tests/core/test_doctor.py is about them."""


def troubles() -> dict[str, Trouble]:
    return {name: one for many in doctor.troubles().values() for name, one in many.items()}


def found(machine: RecordedMachine) -> dict[str, Finding]:
    diagnosis = examine(machine)
    for finding in diagnosis.findings:
        assert finding.id not in ("rule-broken", "plugin-broken"), finding
    return {finding.id: finding for finding in diagnosis.findings}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.trouble)
def test_a_trouble_is_found_where_it_is(case: Case) -> None:
    ill = found(box(case.base, case.ill))
    assert case.trouble in ill, ill.keys()
    finding = ill[case.trouble]
    assert finding.subject
    assert finding.evidence
    assert finding.command
    assert finding.owner or case.trouble in troubles()
    assert json.loads(json.dumps(as_json(finding)))["id"] == case.trouble


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.trouble)
def test_a_trouble_is_not_found_where_it_is_not(case: Case) -> None:
    assert case.trouble not in found(box(case.healthy or case.base, case.well or {}))


def test_every_trouble_has_a_case_and_is_said_in_full() -> None:
    known = troubles()
    own = set(" ".join(OWN).split())
    assert {case.trouble for case in CASES} == known.keys() - own
    for trouble in known.values():
        for text in (trouble.title, trouble.symptom, trouble.cause, trouble.remedy):
            assert len(text.split()) > 1, trouble.id
        assert re.fullmatch(r"https://\S+|", trouble.upstream), trouble.id
        assert re.fullmatch(r"[a-z0-9_-]+", trouble.id)


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_found_on_every_recorded_machine(name: str, request: pytest.FixtureRequest) -> None:
    """A change here is a change of mind: read it, then run this with `--update-golden`."""
    text = f"{examine(testing.machine(name))}\n"
    file = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_there_is_no_golden_file_without_a_machine() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(MACHINES)


def test_what_is_carried_out_is_what_was_understood() -> None:
    """Of all commands that our rules give, those with pip or a variable are steps, no others."""
    every = [finding for case in CASES for finding in found(box(case.base, case.ill)).values()]
    for step in plan(every, Path("env.sh")).steps:
        command = step.finding.command
        plain = re.match(r"pip |export |unset ", command) and not re.search(r"\.whl|# ", command)
        assert step.by_hand != bool(plain), command
        for arguments in step.pip:
            assert arguments == tuple(shlex.split(shlex.join(arguments)))


# The rules' own judgements --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "flags", "runs"),
    [
        ("sm_90", "sm_80 sm_86 sm_90", True),
        ("sm_89", "sm_80 sm_86", True),  # a later minor version of the same major one
        ("sm_80", "sm_86", False),  # an earlier one
        ("sm_120", "sm_90 sm_100", False),
        ("sm_121", "sm_120", True),
        ("sm_120", "sm_90 compute_90", True),  # PTX is compiled when it is loaded
        ("sm_75", "compute_80", False),
        ("sm_100", "sm_90a compute_90a", False),  # made for that architecture alone
        ("sm_90", "sm_90a", True),
        ("sm_121", "sm_120f", True),
        ("sm_61", "sm_75", False),
        ("unknown", "sm_75", True),
    ],
)
def test_what_machine_code_runs_on_which_card(arch: str, flags: str, runs: bool) -> None:
    assert runs_on(arch, flags.split()) is runs


@given(st.integers(5, 12), st.integers(0, 9), st.integers(5, 12), st.integers(0, 9))
def test_cubins_stay_in_their_major_version_and_ptx_goes_up(a: int, b: int, c: int, d: int) -> None:
    assert runs_on(f"sm_{a}{b}", [f"sm_{c}{d}"]) == (a == c and b >= d)
    assert runs_on(f"sm_{a}{b}", [f"compute_{c}{d}"]) == ((a, b) >= (c, d))


def test_the_arch_list_of_the_wheel_is_asked_where_it_can_be() -> None:
    ill = box("h100", {"queries": {"torch arch flags": {"value": "sm_75 sm_80 sm_120"}}})
    assert "none of which runs on sm_90" in found(ill)["nvidia-wheel-without-arch"].evidence
    well = box("h100", {"queries": {"torch arch flags": {"value": "sm_75 compute_80"}}})
    assert "nvidia-wheel-without-arch" not in found(well)


def test_physical_numbers_are_given_back_as_logical_ones() -> None:
    (case,) = (case for case in CASES if case.trouble == "ascend-device-ids")
    finding = found(box(case.base, case.ill))[case.trouble]
    assert finding.command == f"export {VISIBLE}=1"
    assert "/dev/davinci3, /dev/davinci6" in finding.evidence
    nowhere = box(case.base, {**case.ill, "env": {VISIBLE: "6,7"}})
    assert found(nowhere)[case.trouble].command == f"unset {VISIBLE}"


@pytest.mark.parametrize(
    ("setting", "nodes", "trouble", "command"),
    [
        ("6", (3, 6), "ascend-device-ids", f"export {VISIBLE}=1"),
        ("6,3", (3, 6), "ascend-device-ids", f"export {VISIBLE}=1,0"),
        ("6,7", (3, 6), "ascend-device-ids", f"unset {VISIBLE}"),
        ("0,6", (3, 6), "ascend-device-ids", f"unset {VISIBLE}"),  # the first of them is seen
        ("9", (0, 1), "ascend-hidden", f"unset {VISIBLE}"),  # nobody's number
        ("9" * 5000, (0, 1), "ascend-hidden", f"unset {VISIBLE}"),
        ("", (3, 6), "ascend-hidden", f"unset {VISIBLE}"),
        ("npu", (3, 6), "ascend-hidden", f"unset {VISIBLE}"),
        ("0,1", (3, 6), None, ""),
    ],
)
def test_one_cause_of_hidden_npus_is_one_finding(
    setting: str, nodes: tuple[int, ...], trouble: str | None, command: str
) -> None:
    here = box("ascend-910b2-x8", {**env(**{VISIBLE: setting}), "": only_nodes(*nodes)})
    findings = [one for one in examine(here).findings if one.id.startswith("ascend-")]
    assert [(one.id, one.command) for one in findings] == ([(trouble, command)] if trouble else [])


def test_of_two_bridges_the_one_without_a_card_goes() -> None:
    ill = box("cambricon-mlu590", {"distributions": {"torch-npu": "2.7.1"}})
    assert found(ill)["two-bridges"].command == "pip uninstall -y torch-npu"


@pytest.mark.parametrize(
    ("version", "theirs"),
    [
        ("2.13.0", False),
        ("2.13.0+cpu", False),
        ("2.11.0+cu130", False),
        ("2.9.1+rocm6.4", False),
        ("2.11.0+xpu", False),
        ("2.16.0.dev20261101+cpu", False),
        ("2.9.0+das.opt1.dtk2604", True),
        ("2.9.0a0+50eac811a6.nv25.09", True),
        ("2.7.0a0+git1234567", True),
    ],
)
def test_whose_torch_it_is(version: str, theirs: bool) -> None:
    assert is_vendors(version) is theirs


@pytest.mark.parametrize(
    ("mounts", "size"),
    [
        ("", None),
        ("tmpfs /dev/shm tmpfs rw,nosuid 0 0", None),
        ("shm /dev/shm tmpfs rw,size=65536k,mode=1777 0 0", 65536 * 1024),
        ("shm /dev/shm tmpfs size=64m 0 0\nshm /dev/shm tmpfs size=8G 0 0", 8 * 2**30),
        ("a /dev/shm tmpfs size=50% 0 0", None),
        ("a /dev/shm", None),
    ],
)
def test_the_size_of_shared_memory(mounts: str, size: int | None) -> None:
    assert shm_size(mounts) == size


@given(st.text(max_size=60))
def test_no_mounts_break_the_rule(text: str) -> None:
    shm_size(f"shm /dev/shm tmpfs size={text}")
