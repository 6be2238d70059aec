"""Law 5: a probe may crash, hang, print, fork or poison its context, and harms nobody."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from accel.errors import AccelError
from accel.machine import ThisMachine
from accel.probing import Prober, ProbeResult, process
from accel.values import Device, Feature, Impl, Probe

MODULES = Path(__file__).parent / "probe_modules"
DEVICE = Device(vendor="test", name="none", kind="fake", arch="none")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="probes need a POSIX system")


class QuickProber(Prober):
    """Without torch in the child, so that a child costs a fraction of a second."""

    preload = ()
    startup_seconds = 60.0


def impl(name: str, function: str, seconds: float = 30.0, **arguments: Any) -> Impl:
    probe = Probe(function=f"ill_probes:{function}", arguments=arguments, seconds=seconds)
    return Impl(feature=Feature.OP, name=name, probe=probe)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(MODULES))


@pytest.fixture
def probe(tmp_path: Path) -> Callable[..., list[ProbeResult]]:
    """Results of the given implementations, in order; nothing is left behind."""

    def run(*impls: Impl, device: Device = DEVICE) -> list[ProbeResult]:
        open_files = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
        threads = threading.active_count()
        results = QuickProber(device, ThisMachine(), cache_dir=tmp_path / "cache")(impls)
        assert list(results) == [f"op:{one.name}" for one in impls]
        assert not psutil.Process().children(recursive=True)
        assert threading.active_count() == threads
        if open_files:
            assert len(os.listdir("/proc/self/fd")) == open_files
        return list(results.values())

    return run


def test_a_batch_is_served_by_one_child_which_is_not_this_process(probe: Any) -> None:
    first, second = probe(impl("a", "process"), impl("b", "process", seconds=31.0))
    assert first == second  # the same probe is run once
    first, second, third = probe(
        impl("a", "process"), impl("b", "well"), impl("c", "raises", kind="ValueError", text="no")
    )
    assert first.passed
    assert int(first.detail) != os.getpid()
    assert second == ProbeResult(True, "well", second.seconds, False)
    assert third.detail == "ValueError: no"


@pytest.mark.parametrize(
    ("function", "arguments", "detail"),
    [
        ("killed", {"number": signal.SIGSEGV}, "crashed with SIGSEGV"),
        (
            "killed",
            {"number": signal.SIGKILL},
            "was killed with SIGKILL, perhaps for want of memory",
        ),
        ("killed", {"number": signal.SIGTERM}, "was killed with SIGTERM"),
        ("reads_null", {}, "crashed with SIGSEGV"),
        ("aborts", {}, "crashed with SIGABRT (terminate called: the allocator has had enough)"),
        ("leaves", {"status": 0}, "its process ended with status 0 before it answered"),
        ("leaves", {"status": 7}, "its process ended with status 7 before it answered"),
        ("escapes", {}, "its process ended with status 3 before it answered"),
        ("exits", {"status": 3}, "called sys.exit(3)"),
        ("exits", {"status": None}, "called sys.exit(None)"),
        ("interrupted", {}, "KeyboardInterrupt"),
        ("closes_everything", {}, "its process ended with status 74 before it answered"),
        ("out_of_memory", {}, "MemoryError"),
        ("busy", {}, "OSError: [Errno 16] Device or resource busy"),
        ("unprintable", {}, "BadError"),
        ("wrong_type", {}, "TypeError: the probe returned int, not a line of text"),
        ("absent", {}, "AttributeError: module 'ill_probes' has no attribute 'absent'"),
        ("well", {"sad": 1}, "TypeError: well() got an unexpected keyword argument 'sad'"),
        (
            "raises",
            {"kind": "RuntimeError", "text": "\n\n could not load:\n much\n\n libfoo.so missing\n"},
            "RuntimeError: could not load: libfoo.so missing",
        ),
        (
            "raises",
            {"kind": "RuntimeError", "text": "misaligned address\nlong advice follows"},
            "RuntimeError: misaligned address",
        ),
        ("raises", {"kind": "ValueError", "text": "\x1b[31m\ud800\x07"}, "ValueError:  [31m  "),
    ],
)
def test_a_failure_is_a_result_for_people_and_the_next_probe_is_none_the_worse(
    probe: Any, function: str, arguments: dict[str, Any], detail: str
) -> None:
    before, ill, after = probe(
        impl("before", "well"),
        impl("ill", function, **arguments),
        impl("after", "well", said="after"),
    )
    assert not ill.passed
    assert ill.detail == detail
    assert before.passed
    assert after.passed


def test_a_hang_is_stopped_in_time_and_its_descendants_with_it(probe: Any, tmp_path: Path) -> None:
    begin = time.monotonic()
    hang, family, after = probe(
        impl("hang", "hangs", seconds=0.5),
        impl("family", "hangs_with_family", seconds=5.0, path=str(tmp_path / "pid")),
        impl("after", "well"),
    )
    assert hang.detail == "took longer than 0.5 s and was stopped"
    assert 0.5 <= hang.seconds < 5
    assert family.detail == "took longer than 5 s and was stopped"
    assert after.passed
    assert time.monotonic() - begin < 60
    assert not _runs(int((tmp_path / "pid").read_text()))


def _runs(pid: int) -> bool:
    """Whether a process does anything; one of init's, not yet buried, does not."""
    for _ in range(50):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            return False
        time.sleep(0.1)
    return True


def test_garbage_on_every_file_is_no_answer(probe: Any, capfd: pytest.CaptureFixture[str]) -> None:
    printed, after = probe(impl("prints", "prints"), impl("after", "well"))
    assert printed.detail == "printed"
    assert after.passed
    assert capfd.readouterr() == ("", "")


def test_a_probe_that_forks_answers_once(probe: Any) -> None:
    forked, after = probe(impl("forks", "forks"), impl("after", "well"))
    assert forked.detail == "answered by parent"
    assert after.detail == "well"


def test_a_thread_left_running_does_not_keep_the_child(probe: Any) -> None:
    begin = time.monotonic()
    assert probe(impl("thread", "thread_left"))[0].passed
    assert time.monotonic() - begin < 30


def test_after_a_runtime_error_on_a_device_the_rest_run_in_a_fresh_child(probe: Any) -> None:
    first, ill, rest = probe(impl("a", "process"), impl("ill", "poisons"), impl("b", "poisoned"))
    assert ill.detail == "RuntimeError: an illegal memory access was encountered"
    assert rest.detail == "clean"
    assert first.passed


def test_a_plain_refusal_leaves_the_child_in_use(tmp_path: Path, monkeypatch: Any) -> None:
    starts = _count_starts(monkeypatch)
    prober = QuickProber(DEVICE, ThisMachine(), cache_dir=tmp_path)
    prober([impl("v", "raises", kind="ValueError", text="x"), impl("w", "well")])
    assert len(starts) == 1
    prober([impl("p", "poisons"), impl("q", "poisoned")])
    assert len(starts) == 3


def _count_starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    starts: list[int] = []
    original = process.Child.start

    def start(self: process.Child, *arguments: Any) -> process.Outcome:
        starts.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(process.Child, "start", start)
    return starts


def test_what_a_probe_queued_on_the_device_is_its_own_failure(probe: Any) -> None:
    late, after = probe(impl("late", "late_failure"), impl("after", "well"))
    assert late.detail == "RuntimeError: a queued kernel failed"
    assert after.passed


def test_the_child_is_no_rank_repairs_nothing_and_reads_nothing(
    probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = ["ACCEL_AUTO", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]
    gone += ["TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "GROUP_RANK"]
    for name in gone:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("ACCEL_KEPT", "kept")
    (result,) = probe(impl("env", "surroundings", names=[*gone, "ACCEL_PROBING", "ACCEL_KEPT"]))
    found = json.loads(result.detail)
    assert [found[name] for name in gone] == [None] * len(gone)
    assert found["ACCEL_PROBING"] == "1"
    assert found["ACCEL_KEPT"] == "kept"
    assert found["stdin"] == ""
    assert found["session"] is True
    assert found["cores"] == "0"


def test_a_child_that_cannot_start_fails_every_probe_once(tmp_path: Path, monkeypatch: Any) -> None:
    class Broken(QuickProber):
        preload = ("a_module_that_is_not_there",)

    starts = _count_starts(monkeypatch)
    results = Broken(DEVICE, ThisMachine(), cache_dir=tmp_path)(
        [impl("a", "well"), impl("b", "process")]
    )
    expected = (
        "the child process could not start: import a_module_that_is_not_there failed with "
        "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    )
    assert [result.detail for result in results.values()] == [expected] * 2
    assert len(starts) == 1


def test_no_process_to_be_had_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    (result,) = QuickProber(DEVICE, ThisMachine(), cache_dir=tmp_path)([impl("a", "well")]).values()
    assert not result.passed
    assert result.detail.startswith("no child process could be started: ")


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Within it this process can open so many files more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + count + 1, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(held[0]))
        for _ in range(count):
            os.close(held.pop())
        yield
    finally:
        for file in held:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("left", range(10))
def test_no_descriptor_left_is_an_error_for_people_and_leaks_none(left: int) -> None:
    child, refused = process.Child(), ""
    open_files = set(os.listdir("/dev/fd"))
    with descriptors_left(left):
        try:
            assert child.start((), 60.0).passed
        except AccelError as error:
            refused = str(error)
        finally:
            child.stop()
    assert set(os.listdir("/dev/fd")) == open_files
    assert bool(refused) is (left < 9)  # four pipes, one of them Popen's, and /dev/null
    if refused:
        assert "has no file descriptor left" in refused
        assert "  found: Too many open files: all " in refused
        assert re.search(r"  try:   (ulimit -n \d+|ls -l /proc/\d+/fd)$", refused)


def test_an_interrupt_here_leaves_no_child(tmp_path: Path) -> None:
    """As Ctrl-C does, but raised by the callback that is called between two probes."""

    def progress(line: str) -> None:
        if "second" in line:
            raise KeyboardInterrupt

    prober = QuickProber(DEVICE, ThisMachine(), cache_dir=tmp_path, progress=progress)
    with pytest.raises(KeyboardInterrupt):
        prober([impl("first", "well"), impl("second", "process")])
    assert not psutil.Process().children()
    kept = QuickProber(DEVICE, ThisMachine(), cache_dir=tmp_path)([impl("first", "well")])
    assert kept["op:first"].cached  # what was learnt before it is kept


def test_progress_has_a_line_for_each_probe_that_is_run(tmp_path: Path) -> None:
    lines: list[str] = []
    prober = QuickProber(DEVICE, ThisMachine(), cache_dir=tmp_path, progress=lines.append)
    prober([impl("a", "well"), Impl(feature=Feature.OP, name="without")])
    prober([impl("a", "well"), impl("b", "process")])
    assert lines == ["probing op a on fake:0 ...", "probing op b on fake:0 ..."]


def test_implementations_without_a_probe_are_left_out(tmp_path: Path) -> None:
    prober = QuickProber(DEVICE, ThisMachine(), cache_dir=tmp_path / "cache")
    assert prober([Impl(feature=Feature.OP, name="without")]) == {}
    assert not (tmp_path / "cache").exists()


def test_arguments_that_are_not_plain_data_fail_alone(probe: Any) -> None:
    results = QuickProber(DEVICE, ThisMachine(), cache_dir=Path(os.devnull))(
        [impl("odd", "well", said=object()), impl("a", "well")]
    )
    assert results["op:odd"].detail.startswith("its probe's arguments are not plain data")
    assert results["op:a"].passed


def test_a_machine_that_is_not_here_is_never_probed() -> None:
    class Elsewhere(ThisMachine):
        name = "a recorded box"
        is_here = False

    with pytest.raises(AccelError, match="a recorded box"):
        Prober(DEVICE, Elsewhere())


SCRIPT = """
import multiprocessing, sys
from pathlib import Path
print("main module runs", flush=True)
sys.path.insert(0, {modules!r})
from accel.machine import ThisMachine
from accel.probing import Prober
from accel.values import Device, Feature, Impl, Probe

class Quick(Prober):
    preload = ()

def work():
    assert multiprocessing.current_process().daemon
    device = Device(vendor="test", name="none", kind="fake", arch="none")
    probe = Probe(function="ill_probes:well", arguments={{"said": "from a daemon"}})
    impl = Impl(feature=Feature.OP, name="a", probe=probe)
    crash = Impl(feature=Feature.OP, name="b", probe=Probe(function="ill_probes:reads_null"))
    found = Quick(device, ThisMachine(), cache_dir=Path({cache!r}))([crash, impl])
    print(found["op:b"].detail, found["op:a"].detail, flush=True)

worker = multiprocessing.get_context("fork").Process(target=work, daemon=True)
worker.start()
worker.join()
sys.exit(worker.exitcode)
"""


def test_a_daemonic_worker_of_an_unguarded_script_can_probe(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(modules=str(MODULES), cache=str(tmp_path / "cache")))
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "main module runs\ncrashed with SIGSEGV from a daemon\n"


def test_nothing_that_stands_where_the_user_does_is_imported_by_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A json.py in the working directory, which is not on the parent's path, stays out."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "path", [entry for entry in sys.path if entry not in {"", str(tmp_path)}]
    )
    results = QuickProber(DEVICE, ThisMachine(), cache_dir=tmp_path / "cache")([impl("a", "well")])
    assert results["op:a"].detail == "well"


def test_importing_probing_imports_neither_torch_nor_packaging() -> None:
    code = "import sys, accel.probing; print({'torch', 'packaging', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
