"""The cache of measured configurations: used again, damaged, foreign, and written by several."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel.values import Note
from accel_kernels.triton_provider import tuning
from accel_kernels.triton_provider.configs import Config, Problem, candidates, default
from accel_kernels.triton_provider.tuning import Measurements

PROBLEM = Problem("forward", "sm_90", 132, 4, 128, 4096, 4096, 16, "bfloat16")
NAME = "triton-test"
MEASURED = list(candidates(PROBLEM))[-1]


@pytest.fixture
def told() -> list[Note]:
    return []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[Note]) -> Measurements:
    kept = Measurements(tmp_path / "cache", told.append)
    monkeypatch.setattr(tuning, "_cache", lambda: kept)
    monkeypatch.setattr(tuning, "_name", lambda: NAME)
    monkeypatch.delenv(tuning.TUNE, raising=False)
    tuning.forget()
    return kept


def file_of(cache: Measurements) -> Path:
    return cache.folder / f"{NAME}.json"


def test_what_was_measured_is_used_again(cache: Measurements, told: list[Note]) -> None:
    assert default(PROBLEM) != MEASURED
    tuning._keep(PROBLEM, MEASURED)
    assert tuning.chosen(PROBLEM, pytest.fail) == MEASURED
    other = dataclasses.replace(PROBLEM, m_class=64)
    assert tuning.chosen(other, pytest.fail) == default(other)
    assert told == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:-1],
        lambda raw: b"\x00" * len(raw),
        lambda raw: raw.replace(b"accel-cache/1", b"accel-cache/0"),
        lambda raw: b"[]",
    ],
    ids=["half of it", "but the last byte", "zeros", "another program's", "another document"],
)
def test_a_damaged_file_is_told_of_and_written_again(
    cache: Measurements, told: list[Note], damage: Callable[[bytes], bytes]
) -> None:
    tuning._keep(PROBLEM, MEASURED)
    file_of(cache).write_bytes(damage(file_of(cache).read_bytes()))
    assert tuning.chosen(PROBLEM, pytest.fail) == default(PROBLEM)
    (note,) = told
    assert "damaged" in note.message
    assert note.remedy == "ACCEL_TRITON_TUNE=1"
    tuning._keep(PROBLEM, MEASURED)
    tuning.forget()
    assert tuning.chosen(PROBLEM, pytest.fail) == MEASURED


@pytest.mark.parametrize(
    "change",
    [{"arch": "sm_80"}, {"processors": 78}, {"arch": "gfx942", "processors": 304}, {"bits": 8}],
    ids=["another architecture", "a smaller card", "another vendor's", "other weights"],
)
def test_what_another_device_measured_is_not_taken(
    cache: Measurements, change: dict[str, Any]
) -> None:
    tuning._keep(dataclasses.replace(PROBLEM, **change), MEASURED)
    assert tuning.chosen(PROBLEM, pytest.fail) == default(PROBLEM)


def test_a_foreign_configuration_under_this_devices_name_is_not_taken(
    cache: Measurements, told: list[Note]
) -> None:
    """The scales after the sum, where a tile spans groups, would be a wrong product."""
    one_group = dataclasses.replace(PROBLEM, group=0)
    spanning = next(
        config for config in candidates(one_group) if config.post and config.block_k > 32
    )
    small = dataclasses.replace(PROBLEM, group=32)
    cache.update(NAME, {small.key: dataclasses.asdict(spanning)})
    assert tuning.chosen(small, pytest.fail) == default(small)
    assert any("no configuration" in note.message for note in told)


numbers = st.one_of(st.integers(-3, 300), st.booleans(), st.none(), st.floats(), st.text("a1"))


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    entry=st.fixed_dictionaries(
        {}, optional={field.name: numbers for field in dataclasses.fields(Config)}
    ),
    more=st.booleans(),
)
def test_nonsense_in_the_cache_is_ignored(
    cache: Measurements, entry: dict[str, Any], more: bool
) -> None:
    document = {
        "schema": "accel-cache/1",
        "entries": {PROBLEM.key: {**entry, **({"x": 1} if more else {})}},
    }
    cache.folder.mkdir(mode=0o700, exist_ok=True)
    file_of(cache).write_text(json.dumps(document))
    file_of(cache).chmod(0o600)
    tuning.forget()
    assert tuning.chosen(PROBLEM, pytest.fail) in candidates(PROBLEM)


def keep(first: int) -> None:
    for inputs in range(first, first + 10):
        tuning._keep(dataclasses.replace(PROBLEM, in_features=128 * inputs), MEASURED)


@pytest.mark.skipif(os.name != "posix", reason="locks as POSIX has them")
def test_what_several_processes_measure_at_once_is_all_kept(
    cache: Measurements, told: list[Note]
) -> None:
    context = multiprocessing.get_context("fork")
    racers = [context.Process(target=keep, args=(1 + 10 * n,)) for n in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * 4
    assert len(cache.load(NAME)) == 40
    assert told == []
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".json", ".lock"]


def test_measuring_takes_the_fastest_that_runs(
    cache: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    tried = list(candidates(PROBLEM))
    times = {config: 1.0 + index for index, config in enumerate(tried)}

    def milliseconds(work: Any) -> float:
        config = work()
        if config is tried[0]:
            raise RuntimeError("out of resource")
        return times[config]

    monkeypatch.setattr(tuning, "milliseconds", milliseconds)
    monkeypatch.setattr(tuning, "_may_measure", lambda: True)
    monkeypatch.setattr(tuning, "candidates", lambda problem: iter(tried))
    monkeypatch.setenv(tuning.TUNE, "1")
    assert tuning.chosen(PROBLEM, lambda config: config) is tried[1]
    tuning.forget()
    monkeypatch.delenv(tuning.TUNE)
    assert tuning.chosen(PROBLEM, pytest.fail) == tried[1]
