"""Each deliberately broken plugin fails, and for its own reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.testing.conformance import RULES
from broken import PLUGINS, Broken
from world import HOST, conformance, failures, install


def test_there_is_a_broken_plugin_for_each_rule() -> None:
    assert {plugin.rule for plugin in PLUGINS} == {rule.id for rule in RULES}


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.id)
def test_a_broken_plugin_fails_for_its_own_reason(plugin: Broken, tmp_path: Path) -> None:
    code, document = conformance(install(tmp_path, **plugin.install), "--only", plugin.rule)
    found = failures(document)
    assert code == 1
    assert found
    assert all(name.startswith(f"{plugin.rule}[") for name in found)
    assert any(plugin.says in detail for detail in found.values()), found


def test_what_they_are_broken_from_is_sound(tmp_path: Path) -> None:
    code, document = conformance(install(tmp_path))
    assert failures(document) == {}
    assert code == 0
    ran = {result["rule"] for result in document["results"] if result["status"] == "passed"}
    needs_none = {rule.id for rule in RULES if rule.needs != "device"}
    assert ran == needs_none - {"patch.words", "patch.undo"}
    assert document["how"] == "recorded"
    skipped = [r for r in document["results"] if r["rule"] == "dtype.computes"]
    assert [(r["status"], r["detail"]) for r in skipped] == [("skipped", "no such device here")]


@pytest.mark.slow
def test_and_so_is_the_one_whose_device_is_here(tmp_path: Path) -> None:
    rules = ("probe.passes", "dtype", "runtime", "collective")
    only = [word for rule in rules for word in ("--only", rule)]
    code, document = conformance(install(tmp_path, HOST), *only)
    assert failures(document) == {}
    assert code == 0
    passed = {result["rule"] for result in document["results"] if result["status"] == "passed"}
    assert passed >= {"probe.passes", "dtype.computes", "runtime.random", "collective.sums"}
    sums = [r["case"] for r in document["results"] if r["rule"] == "collective.sums"]
    assert sums == ["gloo/2", "gloo/3", "gloo/4"]
