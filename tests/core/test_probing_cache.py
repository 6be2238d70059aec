"""What probes found out is remembered, for exactly as long as it holds."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel import caching, probing
from accel.machine import Machine, ThisMachine
from accel.probing import Prober, ProbeResult, process, source_digest
from accel.probing.process import Outcome
from accel.values import Device, Feature, Impl, Probe

MODULES = Path(__file__).parent / "probe_modules"
DEVICE = Device(vendor="test", name="none", kind="fake", arch="none", driver="1", toolkit="2")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="probes need a POSIX system")


class FakeChild:
    """Answers at once, in this process; counts what it is asked."""

    asked: list[str]
    answer = Outcome(True, "from the child", 1.5)

    def start(self, preload: Any, seconds: float) -> Outcome:
        return Outcome(True, "")

    def ask(self, request: dict[str, Any], seconds: float) -> Outcome:
        self.asked.append(request["function"])
        return self.answer

    def stop(self) -> None:
        return


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions that children are asked for; there are no real ones."""
    FakeChild.asked = []
    monkeypatch.setattr(process, "Child", FakeChild)
    monkeypatch.setattr(caching, "_memory", {})
    monkeypatch.syspath_prepend(str(MODULES))
    return FakeChild.asked


class Versions(ThisMachine):
    """This machine, with other versions installed."""

    def __init__(self, env: dict[str, str] | None = None, **versions: str) -> None:
        super().__init__()
        self._versions.update({"torch": "2.9.0", "kernels": "1.0", **versions})
        self._env = env or {}

    def env(self, name: str) -> str | None:
        return self._env.get(name)


IMPL = Impl(
    feature=Feature.OP,
    name="a",
    requires=("kernels>=1 ; python_version > '3'",),
    probe=Probe(function="ill_probes:well", arguments={"said": "x"}),
)


def ask(
    folder: Path, impl: Impl = IMPL, device: Device = DEVICE, machine: Machine | None = None
) -> ProbeResult:
    prober = Prober(device, machine or Versions(), cache_dir=folder)
    return prober([impl])[f"op:{impl.name}"]


def test_the_second_time_nothing_is_run(tmp_path: Path, asked: list[str]) -> None:
    first, second = ask(tmp_path), ask(tmp_path)
    assert first == ProbeResult(True, "from the child", 1.5, False)
    assert second == ProbeResult(True, "from the child", 1.5, True)
    assert asked == ["ill_probes:well"]


def test_a_name_a_priority_an_index_and_a_time_limit_do_not_matter(
    tmp_path: Path, asked: list[str]
) -> None:
    ask(tmp_path)
    probe = dataclasses.replace(IMPL.probe or Probe(function=""), seconds=1.0)
    other = dataclasses.replace(IMPL, name="b", priority=9, note="new", probe=probe)
    assert ask(tmp_path, other, dataclasses.replace(DEVICE, index=3, memory=1)).cached


@pytest.mark.parametrize(
    "change",
    [
        {"vendor": "v"},
        {"arch": "a"},
        {"name": "n"},
        {"driver": "2"},
        {"toolkit": None},
        {"kind": "k"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_device_is_another_matter(
    tmp_path: Path, asked: list[str], change: dict[str, Any]
) -> None:
    ask(tmp_path)
    assert not ask(tmp_path, device=dataclasses.replace(DEVICE, **change)).cached


@pytest.mark.parametrize(
    "machine",
    [
        Versions(torch="2.9.1"),
        Versions(kernels="1.1"),
        Versions(env={"LD_LIBRARY_PATH": "/opt/lib"}),
        Versions(env={"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}),
    ],
    ids=["torch", "requires", "loader", "autoload"],
)
def test_other_versions_are_another_matter(
    tmp_path: Path, asked: list[str], machine: Machine
) -> None:
    ask(tmp_path)
    assert not ask(tmp_path, machine=machine).cached
    assert ask(tmp_path).cached
    assert ask(tmp_path, machine=machine).cached


def test_what_loads_with_torch_matters_though_nothing_requires_it(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bridge that is upgraded alone: what failed with the old one is asked again."""
    site = tmp_path / "site"
    info = site / "torch_acme-1.0.dist-info"
    info.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(site))
    (info / "entry_points.txt").write_text("[torch.backends]\nacme = torch_acme:_autoload\n")
    for version in ("1.0", "1.1"):
        (info / "METADATA").write_text(f"Name: torch-acme\nVersion: {version}\n")
        assert not ask(tmp_path / "cache").cached
        assert ask(tmp_path / "cache").cached


def test_a_distribution_that_is_not_required_does_not_matter(
    tmp_path: Path, asked: list[str]
) -> None:
    ask(tmp_path)
    assert ask(tmp_path, machine=Versions(pluggy="99")).cached


@pytest.mark.parametrize("name", ["accel.__version__", "sys.prefix"], ids=["accel", "environment"])
def test_another_accel_or_environment_is_another_matter(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ask(tmp_path)
    monkeypatch.setattr(name, "other")
    assert not ask(tmp_path).cached


def test_the_probe_its_arguments_and_its_source_matter(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "a_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported in the parent')")
    (package / "probes.py").write_text("one")

    def impl(function: str, **arguments: Any) -> Impl:
        return dataclasses.replace(IMPL, probe=Probe(function=function, arguments=arguments))

    folder = tmp_path / "cache"
    assert not ask(folder, impl("a_plugin.probes:f", x=1)).cached
    assert not ask(folder, impl("a_plugin.probes:g", x=1)).cached
    assert not ask(folder, impl("a_plugin.probes:f", x=2)).cached
    assert ask(folder, impl("a_plugin.probes:f", x=1)).cached
    (package / "probes.py").write_text("another")
    assert not ask(folder, impl("a_plugin.probes:f", x=1)).cached


def test_a_source_is_found_without_importing(tmp_path: Path, monkeypatch: Any) -> None:
    assert len(source_digest("accel.probes")) == 64
    assert source_digest("accel.probes") != source_digest("accel.values")
    assert source_digest("no_such_module") == ""
    assert source_digest("accel.no_such_module") == ""
    assert source_digest("json.no.such") == ""
    assert source_digest("sys") == ""
    assert source_digest("__main__") == source_digest("__main__")


@pytest.mark.parametrize("transient", [True, False])
def test_a_passing_failure_is_believed_for_a_short_while_only(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, transient: bool
) -> None:
    answer = Outcome(False, "no", 0.1, transient=transient, spent=True)
    monkeypatch.setattr(FakeChild, "answer", answer)
    ask(tmp_path)
    assert ask(tmp_path).cached
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + probing.TRANSIENT_SECONDS + 1)
    assert ask(tmp_path).cached is not transient
    monkeypatch.setattr(time, "time", lambda: now - 1e6)  # the clock was wrong, and is put right
    assert ask(tmp_path).cached is not transient


def test_a_real_time_out_is_a_passing_failure_and_a_crash_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(MODULES))
    monkeypatch.setattr(Prober, "preload", ())
    crash = dataclasses.replace(IMPL, name="c", probe=Probe(function="ill_probes:reads_null"))
    hang = dataclasses.replace(
        IMPL, name="h", probe=Probe(function="ill_probes:hangs", seconds=0.3)
    )
    memory = dataclasses.replace(IMPL, name="m", probe=Probe(function="ill_probes:out_of_memory"))
    Prober(DEVICE, Versions(), cache_dir=tmp_path)([crash, hang, memory])
    (file,) = tmp_path.glob("*.json")
    entries = json.loads(file.read_text())["entries"].values()
    assert [entry["until"] is None for entry in entries] == [True, False, False]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "passed": st.booleans() | JSON,
        "detail": st.text(max_size=5) | JSON,
        "seconds": st.floats() | JSON,
        "until": st.none() | st.floats() | JSON,
    },
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    found=st.one_of(
        st.binary(max_size=64).map(lambda raw: ("raw", raw)),
        st.integers(0, 400).map(lambda length: ("cut", length)),
        JSON.map(lambda value: ("document", value)),
        JSON.map(lambda value: ("entries", value)),
        (FIELDS | JSON).map(lambda value: ("entry", value)),
    )
)
def test_whatever_the_file_holds_the_answer_is_well_formed_and_the_file_is_mended(
    tmp_path: Path, asked: list[str], found: tuple[str, Any]
) -> None:
    for file in tmp_path.glob("*.json"):
        file.unlink()
    ask(tmp_path)
    (file,) = tmp_path.glob("*.json")
    document = json.loads(file.read_text())
    (key,) = document["entries"]
    kind, value = found
    if kind in {"raw", "cut"}:
        file.write_bytes(value if kind == "raw" else file.read_bytes()[:value])
    elif kind == "document":
        file.write_text(json.dumps(value))
    else:
        file.write_text(
            json.dumps({**document, "entries": value if kind == "entries" else {key: value}})
        )
    result = ask(tmp_path)
    assert type(result.passed) is bool
    assert type(result.detail) is str
    assert type(result.seconds) is float
    if not result.cached:
        assert result.detail == "from the child"
    assert ask(tmp_path).cached


def test_a_disk_that_takes_nothing_costs_a_note_and_the_process_remembers(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    prober = Prober(DEVICE, Versions(), cache_dir=tmp_path / "file" / "cache")
    assert not prober([IMPL])["op:a"].cached
    (note,) = prober.notes
    assert "results are kept for this process only" in note.message
    assert "ACCEL_CACHE_DIR" in note.remedy
    assert ask(tmp_path / "file" / "cache").cached


def test_the_default_folder_is_the_users_own(tmp_path: Path, asked: list[str]) -> None:
    Prober(DEVICE, Versions(env={"XDG_CACHE_HOME": str(tmp_path)}))([IMPL])
    (file,) = (tmp_path / "accel").glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert (
        str(tmp_path) not in file.read_text()
    )  # nothing of the user's in it but what was measured


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {modules!r})
from accel.machine import ThisMachine
from accel.probing import Prober
from accel.values import Device, Feature, Impl, Probe

class Quick(Prober):
    preload = ()

device = Device(vendor="test", name="none", kind="fake", arch="none")
probe = Probe(function="ill_probes:logged", arguments={{"path": {log!r}, "seconds": 1.0}})
lines = []
prober = Quick(device, ThisMachine(), cache_dir=Path({cache!r}), progress=lines.append)
print("ready", flush=True)
sys.stdin.readline()
result = prober([Impl(feature=Feature.OP, name="a", probe=probe)])["op:a"]
print(result.passed, result.cached, *lines, sep="|")
"""


def test_two_processes_at_once_probe_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = SCRIPT.format(modules=str(MODULES), log=str(log), cache=str(tmp_path / "cache"))
    two = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for running in two:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
    answers = [_release(process) for process in two]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in answers)
    assert said == [
        "True|False|probing op a on fake:0 ...",
        "True|True|another process is probing fake:0; waiting for it ...",
    ]
    assert len(log.read_text().splitlines()) == 1


def _release(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process


def test_a_lock_held_too_long_is_not_waited_for(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(tmp_path)
    (lock,) = tmp_path.glob("*.lock")
    for file in tmp_path.glob("*.json"):
        file.unlink()
    monkeypatch.setattr(Prober, "startup_seconds", 0.2)
    impl = dataclasses.replace(
        IMPL, probe=dataclasses.replace(IMPL.probe or Probe(function=""), seconds=0.1)
    )
    with caching.DiskCache(tmp_path).lock(lock.stem, 1.0) as held:
        assert held
        prober = Prober(DEVICE, Versions(), cache_dir=tmp_path)
        assert prober([impl])["op:a"].passed
    assert "another process has held" in prober.notes[0].message
