"""The way of a call: what `auto()` and `plan()` promise, on the machine that is here."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import accel
from accel import pipeline
from accel.errors import AccelError, CapabilityUnavailable, InputError, UnknownDevice
from accel.planning import Plan
from accel.value import replaced
from accel.values import Feature, Level, Patch
from fakes import FakeMachine, candidate, host_plugin, plugin, plugins_of


@pytest.fixture
def own_plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[list[Patch]]:
    """A process in which only the host plugin and one patching plugin are installed."""
    patches: list[Patch] = []
    told: list[Any] = []

    def patching(device: Any, capabilities: Any, machine: Any) -> list[Patch]:
        return list(patches)

    known = plugins_of(
        candidate("host", host_plugin(), "accel-hal"),
        candidate("patcher", plugin(patches=patching, report=lambda report: told.append(report))),
    )
    monkeypatch.setattr(pipeline, "_plugins", known)
    monkeypatch.setattr(pipeline, "_current", None)
    monkeypatch.setenv("ACCEL_CACHE_DIR", str(tmp_path))
    yield patches
    if pipeline._current is not None:
        pipeline._current.revert()


def double(original: Any) -> Any:
    def doubled(text: str) -> Any:
        return original(text) * 2

    return doubled


DOUBLING = Patch(target="json:loads", replace=double, reason="a test wants it", until="never")


def test_auto_applies_once_and_revert_restores(own_plugins: list[Patch]) -> None:
    own_plugins.append(DOUBLING)
    original = json.loads

    report = accel.auto()
    assert json.loads("2") == 4
    assert accel.auto(device="anything") is report
    assert json.loads("2") == 4
    assert accel.current() is report
    assert [entry.state for entry in report.entries] == ["applied"]

    report.revert()
    assert json.loads is original
    assert report.reverted
    report.revert()
    with pytest.raises(AccelError, match=r"accel\.auto\(\)"):
        accel.current()
    again = accel.auto()
    assert again is not report
    assert json.loads("2") == 4


def test_a_second_call_that_wants_something_else_is_told_so(own_plugins: list[Patch]) -> None:
    report = accel.auto(dtype="float32")
    for same in ({}, {"device": "CPU"}, {"device": "host"}, {"dtype": "fp32"}, {"attention": None}):
        accel.auto(**same)  # type: ignore[arg-type]
    assert [note for note in report.notes if note.subject == "accel.auto()"] == []
    assert accel.auto("acme", attention="eager", dtype="float32") is report
    (note,) = [note for note in report.notes if note.subject == "accel.auto()"]
    assert note.level is Level.WARNING
    assert "device='acme', attention='eager':" in note.message
    assert "cpu (Host)" in note.message


def test_a_plugin_that_fails_when_it_is_told_is_in_the_report(
    own_plugins: list[Patch], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(report: Any) -> None:
        raise RuntimeError("boom")

    known = plugins_of(
        candidate("host", host_plugin(), "accel-hal"),
        candidate("listener", plugin(report=told), "listener-dist", "2.0"),
    )
    monkeypatch.setattr(pipeline, "_plugins", known)
    (note,) = [note for note in accel.auto().notes if note.subject == "plugin listener"]
    assert (note.level, note.origin) == (Level.ERROR, "listener-dist 2.0")
    assert "boom in accel_report" in note.message


def test_an_interrupt_while_patching_leaves_nothing_behind(own_plugins: list[Patch]) -> None:
    def interrupted(original: Any) -> Any:
        raise KeyboardInterrupt

    own_plugins += [DOUBLING, replaced(DOUBLING, target="json:dumps", replace=interrupted)]
    own_plugins.append(replaced(DOUBLING, target="not_imported_yet:x"))
    original, finders = json.loads, list(sys.meta_path)
    with pytest.raises(KeyboardInterrupt):
        accel.auto()
    assert json.loads is original
    assert list(sys.meta_path) == finders
    own_plugins[:] = [DOUBLING]
    accel.auto()
    assert json.loads("2") == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_may_call_auto_although_a_thread_was_in_it(
    own_plugins: list[Patch],
) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with pipeline._lock:
            inside.set()
            leave.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(60)
    try:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            os._exit(0 if accel.auto(apply=False).device else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        leave.set()
        holder.join()


def test_a_hook_may_ask_for_devices_while_auto_holds_its_lock(
    own_plugins: list[Patch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks run in a thread of their own, which would wait for the one that waits for them."""
    seen: list[Any] = []
    known = plugins_of(
        candidate("host", host_plugin(), "accel-hal"),
        candidate("nosy", plugin(patches=lambda device: seen.extend(accel.devices()))),
        seconds=5.0,
    )
    monkeypatch.setattr(pipeline, "_plugins", known)
    report = accel.auto()
    assert [device.kind for device in seen] == ["cpu"]
    assert report.notes == ()


def test_the_report_answers_for_the_device(own_plugins: list[Patch]) -> None:
    torch = pytest.importorskip("torch")
    report = accel.auto()
    assert report.torch_device == torch.device("cpu")
    assert report.dtype == torch.float32
    assert (report.attention, report.collective) == ("sdpa", "gloo")
    assert report.capabilities.supports(Feature.ATTENTION, "eager")
    assert "sdpa" in str(report)
    assert "<" in report._repr_html_()
    assert json.loads(report.explain("json"))["chosen"]["attention"] == "sdpa"


def test_a_device_without_any_dtype_says_what_became_of_each(own_plugins: list[Patch]) -> None:
    pytest.importorskip("torch")
    report = accel.auto()
    rejected = tuple(
        replaced(one, accepted=False, reason="it computes nonsense")
        for one in report.plan.decisions
        if one.feature is Feature.DTYPE
    )
    plan = replaced(report.plan, dtype=None, decisions=rejected)
    with pytest.raises(CapabilityUnavailable) as caught:
        _ = accel.Report(plan, report.capabilities, report._journal).dtype
    assert len(caught.value.reasons) == len(rejected)
    assert "it computes nonsense" in str(caught.value)
    assert "accel explain --probe" in str(caught.value)


def test_apply_false_only_looks(own_plugins: list[Patch]) -> None:
    own_plugins.append(DOUBLING)
    original = json.loads
    assert accel.auto(apply=False).entries == ()
    assert json.loads is original


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"device": "nosuch"}, UnknownDevice),
        ({"attention": "nosuch"}, CapabilityUnavailable),
        ({"dtype": "bfloat16"}, CapabilityUnavailable),
        ({"attenion": "sdpa"}, InputError),
    ],
)
def test_what_cannot_be_had_changes_nothing(
    own_plugins: list[Patch], arguments: dict[str, str], error: type[AccelError]
) -> None:
    own_plugins.append(DOUBLING)
    original, environ, finders = json.loads, dict(os.environ), list(sys.meta_path)
    with pytest.raises(error):
        accel.auto(**arguments)  # type: ignore[arg-type]
    assert json.loads is original
    assert (dict(os.environ), list(sys.meta_path)) == (environ, finders)
    with pytest.raises(AccelError):
        accel.current()


def test_choices_come_from_the_variables_too(
    own_plugins: list[Patch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCEL_ATTENTION", "eager")
    assert accel.plan().attention == "eager"
    assert accel.plan(attention="sdpa").attention == "sdpa"
    monkeypatch.setenv("ACCEL_DTYPE", "fp32")
    assert accel.plan().dtype == "float32"


def test_a_dtype_may_be_given_as_torch_has_it(own_plugins: list[Patch]) -> None:
    torch = pytest.importorskip("torch")
    assert accel.plan(dtype=torch.float32).dtype == "float32"
    with pytest.raises(CapabilityUnavailable, match="no such unit"):
        accel.plan(dtype=torch.bfloat16)


def test_a_plan_is_pure_and_survives_json(own_plugins: list[Patch]) -> None:
    own_plugins.append(DOUBLING)
    plan = accel.plan()
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == accel.plan() == plan
    assert [patch.reason for patch in again.patches] == ["a test wants it"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_what_is_not_a_plan_is_refused_for_people(document: Any) -> None:
    with pytest.raises(InputError, match="accel plan --json"):
        Plan.from_json(document)


@given(st.data())
def test_a_damaged_plan_is_refused_for_people(data: st.DataObject) -> None:
    known = plugins_of(candidate("host", host_plugin(), "accel-hal"))
    machine = FakeMachine()
    capabilities, found = pipeline._resolve(known, machine, None, {}, strict=False)
    document = pipeline._plan(known, machine, capabilities, found).to_json()
    key = data.draw(st.sampled_from(["device", "decisions", "plugins", "notes", "devices"]))
    document[key] = data.draw(st.sampled_from([7, "x", [7], {"no": 1}, [{"no": 1}]]))
    with pytest.raises(InputError):
        Plan.from_json(document)
