"""Patches that wait; threads, forks, interpreters of their own, and real libraries."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accel import patching
from accel.patching import Journal, importing
from accel.values import Patch
from worlds import World, assert_identical, fingerprint, only, opened, replacing, times

FILES = {
    "lib/__init__.py": "",
    "lib/core.py": "def f(x):\n    return x * 2\n\ndef g(x):\n    return x * 3\n",
    "user.py": "from lib.core import f\ndef call(x):\n    return f(x)\n",
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    for made in opened(tmp_path):
        made.write(FILES)
        yield made


def test_a_patch_waits_for_its_module(world: World) -> None:
    journal = world.journal(replacing("lib.core:f", times(10)))
    assert (only(journal).state, only(journal).detail) == ("waiting", "until lib.core is imported")
    user = world.load("user")
    assert user.call(1) == 21
    assert only(journal).state == "applied"
    journal.revert()
    assert user.call(1) == 2
    assert user.f is sys.modules["lib.core"].f


def test_reverting_what_waits(world: World) -> None:
    journal = world.journal(replacing("lib.core:f", times(10)))
    assert importing._finder in sys.meta_path
    assert journal.revert() == ()
    assert only(journal).state == "reverted"
    assert importing._finder not in sys.meta_path
    assert world.load("user").call(1) == 2


def test_one_owners_waiting_patches_alone(world: World) -> None:
    journal = world.journal(
        replacing("lib.core:f", times(10), owner="a"), replacing("lib.core:g", times(10), owner="b")
    )
    journal.revert("a")
    core = world.load("lib.core")
    assert (core.f(1), core.g(1)) == (2, 31)


def test_seams_wait_and_guards_look_when_it_is_there(world: World) -> None:
    journal = world.journal(
        Patch(target="lib.core", reason="", seam=lambda m: setattr(m, "door", 1) or print),
        replacing("lib.core:f", times(2), guard=lambda f: f"{f.__name__} is fine"),
        replacing("lib.core:missing", times(2), optional=True),
        replacing("lib.core:g", times(2)),
    )
    core = world.load("lib.core")
    assert [entry.state for entry in journal.entries] == ["applied", "skipped", "applied"]
    assert (core.door, core.f(1), core.g(1)) == (1, 2, 7)


def test_applied_in_the_middle_of_the_librarys_import(world: World) -> None:
    """As `ACCEL_AUTO=1` does: `import torch` within `import transformers` calls auto()."""
    world.write(
        {
            "torchlike/__init__.py": """
                def f(x):
                    return x * 2
                from torchlike import friend
                import hook
                hook.auto()
                def g(x):
                    return f(x)
            """,
            "torchlike/friend.py": "from torchlike import f\n",
            "above.py": "from torchlike import g, f\nLAST = 1\n",
            "hook.py": "",
        }
    )
    journals: list[Journal] = []
    world.load("hook").auto = lambda: journals.append(
        world.journal(
            replacing("torchlike:f", times(10)),
            replacing("torchlike:g", times(2)),
            replacing("above:LAST", lambda n: n + 1),
        )
    )
    above = world.load("above")
    torchlike, friend = world.load("torchlike", "torchlike.friend")
    assert [entry.state for entry in journals[0].entries] == ["applied"] * 3
    assert above.f is torchlike.f is friend.f
    assert (above.f(1), above.g(1), above.LAST) == (21, 43, 2)
    journals[0].revert()
    assert above.f is torchlike.f is friend.f
    assert (above.f(1), above.g(1), above.LAST) == (2, 2, 1)


def test_a_module_that_copied_just_before(world: World) -> None:
    """It holds the original already when the batch comes, and is itself not finished."""
    world.write(
        {"half.py": "from lib.core import f\nimport hook\nhook.auto()\nNOW = f(1)\n", "hook.py": ""}
    )
    world.load("hook").auto = lambda: world.journal(replacing("lib.core:f", times(10)))
    assert world.load("half").NOW == 21


def test_threads_apply_and_revert_at_once(world: World) -> None:
    modules = world.load("lib.core", "user")
    before = fingerprint(modules)
    errors: list[Any] = []

    def work() -> None:
        try:
            for _ in range(20):
                journal = Journal()
                journal.apply([replacing("lib.core:f", times(2))], version={}.get)
                assert modules[1].call(1) >= 2
                errors.extend(journal.revert())
        except Exception as error:  # noqa: BLE001 - a thread's failure is looked at below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_identical(fingerprint(modules), before)


def test_an_import_and_an_apply_that_wait_for_each_other(world: World, monkeypatch: Any) -> None:
    """A replace() imports a module that another thread is importing, which waits for the lock."""
    monkeypatch.setattr(patching, "IMPORT_PATIENCE", 0.2)
    world.write(
        {"slow.py": "import hook\nhook.ready.set(); hook.go.wait(30)\nV = 1\n", "hook.py": ""}
    )
    hook = world.load("hook")
    hook.ready, hook.go = threading.Event(), threading.Event()
    world.load("lib.core")
    waiting = world.journal(replacing("slow:V", lambda value: value + 1))
    thread = threading.Thread(target=importlib.import_module, args=("slow",))
    thread.start()
    assert hook.ready.wait(30)

    def replace(original: Any) -> Any:
        hook.go.set()
        importlib.import_module("slow")
        return times(10)(original)

    applied = world.journal(replacing("lib.core:f", replace))
    thread.join(30)
    assert not thread.is_alive()
    assert only(applied).state == "applied"
    assert only(waiting).state == "applied"
    assert sys.modules["slow"].V == 2


def _in_child(queue: Any) -> None:
    journal = Journal()
    patches = [replacing("lib.core:g", times(10)), replacing("never:f", times(10))]
    journal.apply(patches, version={}.get)
    core = importlib.import_module("lib.core")
    found = [core.f(1), core.g(1)]
    journal.revert()
    queue.put([*found, core.g(1)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_goes_on_even_if_a_thread_held_the_lock(world: World) -> None:
    core = world.load("lib.core")
    world.journal(replacing("lib.core:f", times(10)))
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with patching._lock, importing._lock:
            held.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=30) == [21, 31, 3]
    finally:
        leave.set()
        thread.join()
        child.join(30)
    assert core.f(1) == 21


PROGRAM = """
import sys
from accel.patching import Journal
from accel.values import Patch
journal = Journal()
if {waiting}:
    patches = [Patch(target=t + ":f", reason="", replace=print) for t in ("never", "json.never")]
    journal.apply(patches, version=dict().get)
import json, email.message, concurrent.futures, sqlite3, xml.etree.ElementTree, importlib.resources
import importlib.util, pkgutil, unittest.mock
assert importlib.util.find_spec("never") is None
print(sorted(name for name in sys.modules))
print([type(sys.modules[n].__spec__.loader).__name__ for n in sorted(sys.modules)
       if getattr(sys.modules[n], "__spec__", None)])
print(len(list(pkgutil.iter_modules())))
print(sorted(vars(json)), [type(f) for f in sys.meta_path][-3:])
if {waiting}:
    assert [entry.state for entry in journal.entries] == ["waiting"] * 2
    journal.revert()
print(len(sys.meta_path))
"""


def test_a_finder_left_waiting_changes_no_other_import() -> None:
    def run(waiting: bool) -> str:
        code = textwrap.dedent(PROGRAM.format(waiting=waiting))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    assert run(waiting=True) == run(waiting=False)


def test_a_real_library(world: World) -> None:
    """json and email: a function, methods, and a class that other modules have copied."""
    import email.message
    import json.decoder

    modules = [json, json.decoder, json.encoder, email.message]
    before = fingerprint(modules)
    journal = world.journal(
        replacing("json:dumps", lambda original: lambda *a, **k: original(*a, **k).upper()),
        replacing("json.encoder:JSONEncoder.default", lambda original: lambda self, o: "odd"),
        replacing("json.decoder:JSONDecodeError", lambda c: type("Better", (c,), {})),
        replacing("email.message:Message.get", lambda f: lambda *a, **k: f(*a, **k) or "none"),
    )
    assert json.dumps({"a": object()}) == '{"A": "ODD"}'
    assert json.JSONDecodeError.__name__ == "Better"
    with pytest.raises(json.JSONDecodeError):
        json.loads("{")
    assert email.message.Message()["x"] == "none"
    journal.revert()
    assert_identical(fingerprint(modules), before)


@pytest.mark.slow
def test_torch_compile_goes_through_and_notices_revert(world: World) -> None:
    torch = pytest.importorskip("torch")
    world.write({"net.py": "def f(x, scale=2):\n    return x * scale\n"})
    net = world.load("net")
    compiled = torch.compile(lambda x: net.f(x) - 1, fullgraph=True, backend="eager")
    x = torch.ones(3)
    assert compiled(x).tolist() == [1.0] * 3
    first = world.journal(replacing("net:f", times(10)))
    assert compiled(x).tolist() == [20.0] * 3
    held = torch.compile(net.f, fullgraph=True, backend="eager")
    assert held(x).tolist() == [21.0] * 3
    world.journal(replacing("net:f", times(2)))
    first.revert()
    assert compiled(x).tolist() == [4.0] * 3
    assert held(x).tolist() == [5.0] * 3
    for journal in world.journals:
        journal.revert()
    assert compiled(x).tolist() == [1.0] * 3
    assert held(x).tolist() == [2.0] * 3
