"""The ptxas that Triton is given where its own is older than the card; the tools are scripts."""

from __future__ import annotations

import os
import types
from pathlib import Path

import pytest
from asking import changed

from accel.machine import Machine
from accel.patching import Journal
from accel.testing import machine
from accel.values import Device, Patch
from accel_nvidia import assembling, blackwell
from accel_nvidia.doctoring import examine

OLD, NEW = "TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH"


def gpu(arch: str) -> Device:
    return Device(vendor="nvidia", name="x", kind="cuda", arch=arch, owner="blackwell")


def box(triton: str | None, **env: str) -> Machine:
    here = machine("dgx-spark")
    packages = {name: v for name, v in here.distributions().items() if name != "triton"}
    more = {} if triton is None else {"triton": triton}
    return changed(here, distributions={**packages, **more}, env=env)


def patch(arch: str, triton: str) -> Patch:
    (found,) = blackwell.accel_patches(device=gpu(arch), machine=box(triton))
    return found


def tool(path: Path, *archs: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/sh\necho "' + ", ".join(f"'{arch}'" for arch in archs) + '"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A Triton in `sys.modules` whose folder is empty, and no toolkit beside it."""
    module = types.ModuleType("triton")
    module.__path__ = [str(tmp_path / "triton")]
    monkeypatch.setitem(__import__("sys").modules, "triton", module)
    monkeypatch.setattr(assembling, "INSTALLED", str(tmp_path / "cuda*" / "bin" / "ptxas"))
    monkeypatch.setattr(assembling, "WHEEL", ("no-such-distribution", "ptxas"))
    for name in (OLD, NEW):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("arch", "version", "variable"), [("sm_121", "3.5.1", OLD), ("sm_110", "3.6.0", NEW)]
)
def test_the_variable_is_the_one_that_this_triton_reads(
    triton: Path, arch: str, version: str, variable: str
) -> None:
    newer = tool(triton / "cuda-13.0" / "bin" / "ptxas", "sm_110", "sm_121")
    tool(triton / "cuda-12.8" / "bin" / "ptxas", "sm_120")
    journal = Journal()
    journal.apply([patch(arch, version)], version=lambda name: version)
    assert [entry.state for entry in journal.entries] == ["applied"]
    assert {name: os.environ.get(name) for name in (OLD, NEW)} == {
        OLD: None,
        NEW: None,
        variable: str(newer),
    }
    journal.revert()
    assert not {OLD, NEW} & set(os.environ)


def test_what_the_user_sets_meanwhile_outlives_the_patch(triton: Path) -> None:
    tool(triton / "cuda-13.0" / "bin" / "ptxas", "sm_121")
    journal = Journal()
    journal.apply([patch("sm_121", "3.5.1")], version=lambda name: "3.5.1")
    os.environ[OLD] = "/my/own"
    journal.revert()
    assert os.environ[OLD] == "/my/own"


@pytest.mark.parametrize(
    ("own", "setting", "said"),
    [
        (["sm_121"], "", "this Triton's ptxas knows sm_121"),
        (["sm_120"], "/my/own", f"{OLD} is set"),
        (["sm_120"], "", "no ptxas that knows sm_121"),
    ],
)
def test_where_nothing_is_done_the_entry_says_why(
    triton: Path, own: list[str], setting: str, said: str
) -> None:
    tool(triton / "triton" / assembling.FOLDER / "ptxas", *own)
    os.environ[OLD] = setting
    journal = Journal()
    journal.apply([patch("sm_121", "3.5.1")], version=lambda name: "3.5.1")
    (entry,) = journal.entries
    assert entry.state == "skipped"
    assert said in entry.detail
    journal.revert()
    assert os.environ[OLD] == setting


@pytest.mark.parametrize(
    ("arch", "version", "env"),
    [
        ("sm_121", "3.6.0", {}),
        ("sm_121", None, {}),
        ("sm_121", "a fork", {}),
        ("sm_120", "3.5.1", {}),
        ("sm_121", "3.5.1", {OLD: "/my/own"}),
        ("sm_110", "3.6.0", {NEW: "/my/own"}),
    ],
)
def test_most_need_none(arch: str, version: str | None, env: dict[str, str]) -> None:
    assert list(blackwell.accel_patches(device=gpu(arch), machine=box(version, **env))) == []


def test_the_doctor_names_the_same_variable() -> None:
    for arch, version, variable in (("sm_121", "3.5.1", OLD), ("sm_110", "3.6.0", NEW)):
        here = changed(box(version), paths=["/usr/local/cuda-13.0/bin/ptxas"])
        commands = [finding.command for finding in examine(here, [gpu(arch)])]
        assert f"export {variable}=/usr/local/cuda-13.0/bin/ptxas" in commands
