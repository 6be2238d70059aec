"""Broken plugins are named with their distribution, and everything else works (law 7)."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from typing import Any, NoReturn

import pytest

from accel import pipeline
from accel.errors import InputError, PluginContractError, PluginLoadError
from accel.loading import Plugins, hook_seconds
from accel.values import Feature, Patch, Probe
from fakes import HOST, FakeMachine, candidate, device, host_plugin, impl, plugin, plugins_of


def explode(*_: Any) -> NoReturn:
    raise RuntimeError("boom")


def leave(*_: Any) -> NoReturn:
    sys.exit(3)


def hang(*_: Any) -> None:
    time.sleep(60)


class Lazy:
    """Iterable, and raises only when it is iterated."""

    def __iter__(self) -> Any:
        explode()


def with_host(*broken: Any, seconds: float = 5.0) -> Plugins:
    return plugins_of(candidate("host", host_plugin(), "accel-hal"), *broken, seconds=seconds)


BROKEN_AT_LOAD = {
    "raises at import": (explode, "RuntimeError: boom"),
    "exits at import": (leave, "sys.exit(3)"),
    "hangs at import": (hang, "did not come back"),
    "misspelt hook": (lambda: plugin(detekt=lambda machine: []), "unknown hook"),
    "wrong argument": (lambda: plugin(detect=lambda maschine: []), "maschine"),
}


@pytest.mark.parametrize("kind", BROKEN_AT_LOAD)
def test_a_plugin_broken_at_load_is_named_and_the_rest_works(kind: str) -> None:
    load, said = BROKEN_AT_LOAD[kind]
    known = with_host(candidate("broken", load, "broken-dist", "2.3"), seconds=0.3)

    assert pipeline.detect(known, FakeMachine())[0].owner == "host"
    (failure,) = known.failures
    assert failure.origin == "broken-dist 2.3"
    assert said in failure.message
    assert "ACCEL_DISABLE_PLUGINS=broken" in failure.remedy
    info = known.info("broken")
    assert info is not None
    assert info.status == "failed"


@pytest.mark.parametrize("kind", BROKEN_AT_LOAD)
def test_asked_for_by_name_a_plugin_broken_at_load_is_an_error(kind: str) -> None:
    load, said = BROKEN_AT_LOAD[kind]
    known = with_host(candidate("broken", load, "broken-dist"), seconds=0.3)

    by_variable = FakeMachine(variables={"ACCEL_DEVICE": "broken"})
    for machine, named in ((FakeMachine(), "broken"), (by_variable, None)):
        with pytest.raises(PluginLoadError) as caught:
            pipeline._resolve(known, machine, named, {}, strict=False)
        assert said in str(caught.value)
        assert "broken-dist" in str(caught.value)


BROKEN_IN_A_HOOK = {
    "raises in a hook": (explode, "RuntimeError: boom in accel_detect"),
    "raises while yielding": (lambda machine: (1 / n for n in (0,)), "ZeroDivisionError"),
    "exits in a hook": (leave, "sys.exit(3)"),
    "hangs in a hook": (hang, "did not come back"),
    "not a list": (lambda machine: 7, "answered accel_detect with int 7"),
    "a string": (lambda machine: "cpu", "answered accel_detect with str"),
    "a list of the wrong thing": (lambda machine: ["cpu"], "'cpu' in the list, not Device"),
    "raises where its items are asked for": (lambda machine: Lazy(), "RuntimeError: boom"),
    "never ends": (lambda machine: map(str, itertools.count()), "more than 10000 items"),
    "a name where a number should be": (
        lambda machine: [device(priority="high")],
        "a Device whose priority is str 'high', not int",
    ),
    "nothing where there should be something": (
        lambda machine: [device(kind=None)],
        "a Device whose kind is NoneType None, not str",
    ),
    "another's name": (lambda machine: [device(owner="host")], "in the name of host"),
    "another's device": (lambda machine: [HOST], "which is host's"),
}


@pytest.mark.parametrize("kind", BROKEN_IN_A_HOOK)
def test_a_plugin_broken_in_a_hook_is_named_and_the_rest_works(kind: str) -> None:
    detect, said = BROKEN_IN_A_HOOK[kind]
    # "aaa" would win every tie that is settled by name.
    known = with_host(
        candidate("aaa", plugin(detect=lambda machine: detect(machine)), "aaa-dist"), seconds=0.3
    )

    capabilities, found = pipeline._resolve(known, FakeMachine(), None, {}, strict=False)
    assert [d.owner for d in found] == ["host"]
    best = capabilities.best(Feature.ATTENTION)
    assert best is not None
    assert best.name == "sdpa"
    assert any(
        said in failure.message and failure.origin == "aaa-dist 1.0" for failure in known.failures
    )


@pytest.mark.parametrize("kind", BROKEN_IN_A_HOOK)
def test_asked_for_by_name_a_plugin_broken_in_a_hook_is_an_error(kind: str) -> None:
    detect, _ = BROKEN_IN_A_HOOK[kind]
    known = with_host(
        candidate("aaa", plugin(detect=lambda machine: detect(machine)), "aaa-dist"), seconds=0.3
    )

    with pytest.raises(PluginContractError, match="aaa-dist"):
        pipeline._resolve(known, FakeMachine(), "aaa", {}, strict=False)


@pytest.mark.parametrize("hook", ["capabilities", "patches"])
@pytest.mark.parametrize(
    "answer",
    [
        explode,
        leave,
        lambda **_: 7,
        lambda **_: [object()],
        lambda **_: [impl("op", "a feature by its name")],
        lambda **_: [impl(Feature.OP, "one requirement", requires="torch")],
        lambda **_: [impl(Feature.OP, "a number", requires=(1,))],
        lambda **_: [impl(Feature.OP, "inside", probe=Probe(function="a:b", seconds="long"))],
        lambda **_: [Patch(target=None, reason="none")],  # type: ignore[arg-type]
    ],
)
def test_a_provider_broken_in_a_later_hook_is_named_and_the_plan_stands(
    hook: str, answer: Any
) -> None:
    def patches(device: Any, capabilities: Any, machine: Any) -> Any:
        return answer()

    def capabilities(device: Any, machine: Any) -> Any:
        return answer()

    broken = plugin(**{hook: {"capabilities": capabilities, "patches": patches}[hook]})
    known = with_host(candidate("broken", broken, "broken-dist"))
    machine = FakeMachine()

    resolved, found = pipeline._resolve(known, machine, None, {}, strict=False)
    plan = pipeline._plan(known, machine, resolved, found)
    assert plan.attention == "sdpa"
    assert [note.origin for note in plan.notes] == ["broken-dist 1.0"]


@pytest.mark.parametrize("text", ["10s", "0", "-1", "nan", "inf", "1e300"])
def test_a_time_that_cannot_be_waited_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("ACCEL_PLUGIN_SECONDS", text)
    with pytest.raises(InputError, match="unset ACCEL_PLUGIN_SECONDS"):
        hook_seconds()


@pytest.mark.parametrize(("text", "seconds"), [("", 10.0), ("2.5", 2.5), (" 3 ", 3.0)])
def test_the_time_of_a_hook_is_the_users(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    monkeypatch.setenv("ACCEL_PLUGIN_SECONDS", text)
    assert hook_seconds() == seconds


def test_a_plugin_that_hung_once_is_not_asked_again() -> None:
    calls: list[int] = []

    def detect(machine: Any) -> None:
        calls.append(1)
        time.sleep(60)

    known = with_host(candidate("slow", plugin(detect=detect)), seconds=0.2)
    for _ in range(3):
        pipeline.detect(known, FakeMachine())
    assert len(calls) == 1


def test_no_thread_is_left_behind_by_plugins_that_answer() -> None:
    before = threading.active_count()
    pipeline.detect(with_host(), FakeMachine())
    assert threading.active_count() == before


def test_two_plugins_of_one_name_the_first_stands_and_the_other_is_named() -> None:
    known = plugins_of(
        candidate("host", host_plugin(), "accel-hal"),
        candidate("host", plugin(detect=explode), "aaa-copycat", "9.9"),
    )
    assert [d.owner for d in pipeline.detect(known, FakeMachine())] == ["host"]
    (failure,) = known.failures
    assert failure.origin == "aaa-copycat 9.9"
    assert "taken by accel-hal" in failure.message
    assert {(i.distribution, i.status) for i in known.infos} == {
        ("accel-hal", "loaded"),
        ("aaa-copycat", "failed"),
    }


@pytest.mark.parametrize("refused", ["extra", "extra-dist"])
def test_a_plugin_can_be_refused_by_its_name_or_its_distributions(refused: str) -> None:
    loaded: list[str] = []
    known = plugins_of(
        candidate("host", host_plugin(), "accel-hal"),
        candidate("extra", lambda: loaded.append("loaded"), "extra-dist"),
        refused=[refused],
    )
    assert loaded == []
    info = known.info("extra")
    assert info is not None
    assert info.status == "refused"
    assert known.failures == ()
    with pytest.raises(PluginLoadError, match="unset ACCEL_DISABLE_PLUGINS"):
        pipeline._resolve(known, FakeMachine(), "extra", {}, strict=False)


def test_plugins_are_asked_in_order_of_their_names() -> None:
    asked: list[str] = []
    made = [
        candidate(name, plugin(detect=lambda machine, name=name: asked.append(name)))
        for name in ("c", "a", "b")
    ]
    plugins_of(*made).call("accel_detect", machine=FakeMachine())
    assert asked == ["a", "b", "c"]


def test_an_owner_answers_for_its_own_devices_and_providers_for_all() -> None:
    def other(device: Any) -> Any:
        return [impl(Feature.OP, "of a plugin that detects")]

    def provider(device: Any) -> Any:
        return [impl(Feature.QUANT, "of a provider")]

    known = with_host(
        candidate("other", plugin(detect=lambda machine: [], capabilities=other)),
        candidate("provider", plugin(capabilities=provider)),
    )
    resolved, _ = pipeline._resolve(known, FakeMachine(), None, {}, strict=False)
    owners = {decision.impl.owner for decision in resolved.decisions}
    assert owners == {"host", "provider"}
