"""torch's own door: inert unless asked, and never able to make `import torch` fail."""

from __future__ import annotations

import io
import types

import pytest

from accel import autoload

WHAT_IS_LOADED = """
import sys
from accel.autoload import load
load()
assert "torch" not in sys.modules
print(sorted(name for name in sys.modules if name.startswith("accel.")))
"""
TORCH_IS_FINE = "import torch; print('two', int(torch.ones(2).sum()))"


@pytest.mark.parametrize(
    "variables",
    [{}, {"ACCEL_AUTO": ""}, {"ACCEL_AUTO": "0"}, {"ACCEL_AUTO": "1", "ACCEL_PROBING": "1"}],
)
def test_inert_unless_asked(run, variables):
    ended = run("-c", WHAT_IS_LOADED, **variables)
    assert ended.stdout.strip() == "['accel.autoload']", ended.stderr
    assert ended.stderr == ""


@pytest.mark.parametrize("device", ["no-such-device", "float32"])
def test_what_goes_wrong_is_a_line_and_torch_goes_on(run, device):
    ended = run("-c", TORCH_IS_FINE, ACCEL_AUTO="1", ACCEL_DEVICE=device, ACCEL_PROBE="0")
    assert ended.returncode == 0
    assert ended.stdout.strip() == "two 2"
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("accel:")]
    assert "nothing was changed" in line
    assert device in line


def test_one_line_a_process(run):
    code = f"{TORCH_IS_FINE}; from accel.autoload import load; import accel; r = accel.auto()"
    ended = run("-c", code, ACCEL_AUTO="1", ACCEL_PROBE="0", ACCEL_DEVICE="cpu")
    assert ended.stdout.strip() == "two 2", ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("accel:")]
    assert len(lines) == 1
    assert lines[0].startswith("accel: cpu · sdpa · float32 · gloo · ")


@pytest.mark.parametrize("error", [RuntimeError("a\n  b"), SystemExit(3), OSError()])
def test_whatever_is_raised_inside(monkeypatch, capsys, error):
    from accel import pipeline

    def fails():
        raise error

    monkeypatch.setenv("ACCEL_AUTO", "1")
    monkeypatch.delenv("ACCEL_PROBING", raising=False)
    monkeypatch.setattr(pipeline, "auto", fails)
    autoload.load()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert type(error).__name__ in said


class NobodyReads(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stderr", [NobodyReads, closed, lambda: None])
@pytest.mark.parametrize("fails", [True, False])
def test_with_nowhere_to_say_it_torch_goes_on(monkeypatch, capsys, stderr, fails):
    from accel import pipeline

    def auto():
        if fails:
            raise RuntimeError
        return

    monkeypatch.setenv("ACCEL_AUTO", "1")
    monkeypatch.delenv("ACCEL_PROBING", raising=False)
    monkeypatch.setattr(pipeline, "auto", auto)
    monkeypatch.setattr(autoload, "line_of", lambda report: "accel: cpu")
    monkeypatch.setattr("sys.stderr", stderr())
    autoload.load()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("argv", "original", "agent"),
    [
        (["/usr/bin/torchrun", "x.py"], [], True),
        (["-m"], ["python", "-m", "torch.distributed.run", "x.py"], True),
        (["-m"], ["python", "-u", "-m", "torch.distributed.launch"], True),
        (["-m"], ["python", "-m", "pytest"], False),
        (["train.py", "torchrun"], ["python", "train.py", "torchrun"], False),
        ([], [], False),
    ],
)
def test_the_agent_that_only_starts_ranks_is_left_alone(argv, original, agent):
    assert autoload._only_starts_others(argv, original) is agent


def test_the_line_of_a_rank(monkeypatch):
    entry = types.SimpleNamespace
    states = ("applied", "waiting", "skipped", "failed")
    report = types.SimpleNamespace(
        plan=types.SimpleNamespace(
            device=types.SimpleNamespace(torch_name="npu:1"),
            attention="sdpa",
            dtype="float16",
            collective="hccl",
        ),
        entries=tuple(entry(state=state) for state in states),
    )
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert autoload.line_of(report) == "accel: rank 1/2 · npu:1 · sdpa · float16 · hccl · 2 repairs"
    monkeypatch.delenv("RANK")
    assert autoload.line_of(report) == "accel: npu:1 · sdpa · float16 · hccl · 2 repairs"
