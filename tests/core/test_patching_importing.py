"""Waiting for an import: in every way a module can get in, and without changing any of it."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.resources
import importlib.util
import inspect
import pickle
import pkgutil
import runpy
import sys
import threading
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accel.patching import importing
from accel.patching.importing import when_imported
from worlds import World, opened

FILES = {
    "pkg/__init__.py": "VALUE = 1\n",
    "pkg/sub.py": "VALUE = 2\n",
    "pkg/__main__.py": "import pkg\nRESULT = pkg.VALUE\n",
    "pkg/data.txt": "some text",
    "space/inner.py": "VALUE = 3\n",
    "other.py": "VALUE = 4\n",
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    for made in opened(tmp_path):
        made.write(FILES)
        yield made


class Seen(list[str]):
    """A callback that keeps what it was called with."""

    def __call__(self, module: types.ModuleType) -> None:
        module.__dict__["seen"] = True
        self.append(module.__name__)


def test_at_once_if_it_is_there(world: World) -> None:
    world.load("pkg")
    seen = Seen()
    waiting = when_imported("pkg", seen)
    assert seen == ["pkg"]
    assert waiting.done
    assert not waiting.cancel()
    assert importing._finder not in sys.meta_path


def test_right_after_the_import_before_anyone_sees_it(world: World) -> None:
    world.write({"user.py": "from pkg import VALUE, seen\n"})
    seen = Seen()
    when_imported("pkg", seen)
    assert importing._finder is sys.meta_path[0]
    assert world.load("user").seen
    assert seen == ["pkg"]
    assert importing._finder not in sys.meta_path


def test_a_submodule(world: World) -> None:
    seen = Seen()
    when_imported("pkg.sub", seen)
    world.load("pkg")
    assert seen == []
    world.load("pkg.sub")
    assert seen == ["pkg.sub"]


def test_cancel(world: World) -> None:
    seen = Seen()
    first, second = when_imported("pkg", seen), when_imported("pkg", seen)
    assert first.cancel()
    assert not first.cancel()
    world.load("pkg")
    assert seen == ["pkg"]
    assert not second.cancel()


def test_the_finder_leaves_when_nothing_waits(world: World) -> None:
    before = list(sys.meta_path)
    waiting = when_imported("never", Seen())
    waiting.cancel()
    assert sys.meta_path == before


def test_the_module_is_as_if_nobody_had_waited(world: World) -> None:
    plain = world.load("pkg")
    wanted = {name: type(value) for name, value in vars(plain).items()}
    loader, spec = plain.__loader__, plain.__spec__
    del sys.modules["pkg"]
    when_imported("pkg", lambda module: None)
    module = world.load("pkg")
    assert {name: type(value) for name, value in vars(module).items()} == wanted
    assert module.__spec__ == spec
    assert type(module.__spec__) is type(spec)
    assert type(module.__loader__) is type(module.__spec__.loader) is type(loader)
    assert module.__loader__ is module.__spec__.loader
    assert importlib.resources.files("pkg").joinpath("data.txt").read_text() == "some text"
    assert pkgutil.get_data("pkg", "data.txt") == b"some text"
    assert inspect.getsource(module) == "VALUE = 1\n"
    assert importlib.reload(module) is module


def test_a_module_sees_its_own_loader_while_it_runs(world: World) -> None:
    world.write({"nosy.py": "KIND = type(__loader__), type(__spec__.loader)\n"})
    when_imported("nosy", lambda module: None)
    kind = importlib.machinery.SourceFileLoader
    assert set(world.load("nosy").KIND) == {kind}


def test_a_spec_found_meanwhile_passes_for_the_real_one(world: World) -> None:
    real = importlib.util.find_spec("other")
    waiting = when_imported("other", lambda module: None)
    spec = importlib.util.find_spec("other")
    assert spec is not None
    assert real is not None
    assert isinstance(spec.loader, importlib.machinery.SourceFileLoader)
    assert isinstance(spec.loader, importlib.abc.ResourceLoader)
    assert spec == real
    assert hash(spec.loader) == hash(real.loader)
    assert pickle.loads(pickle.dumps(spec.loader.__class__)) is type(real.loader)
    assert spec.loader.get_source("other") == "VALUE = 4\n"
    waiting.cancel()


def test_a_private_copy_does_not_count(world: World) -> None:
    seen = Seen()
    when_imported("other", seen)
    spec = importlib.util.find_spec("other")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert seen == []
    world.load("other")
    assert seen == ["other"]


def test_the_manual_recipe(world: World) -> None:
    """The body of the module imports something; that must not be taken for its end."""
    world.write({"manual.py": "import other\nLAST = 1\n"})
    ends: list[bool] = []
    when_imported("manual", lambda module: ends.append(hasattr(module, "LAST")))
    spec = importlib.util.find_spec("manual")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["manual"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert ends == [True]


def test_run_as_a_program(world: World) -> None:
    seen = Seen()
    when_imported("pkg", seen)
    assert runpy.run_module("pkg", run_name="__main__")["RESULT"] == 1
    assert seen == ["pkg"]
    waiting = when_imported("other", seen)
    assert runpy.run_module("other", run_name="__main__")["VALUE"] == 4
    assert seen == ["pkg"]
    waiting.cancel()


def test_from_a_zip(world: World) -> None:
    with zipfile.ZipFile(world.folder / "z.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "VALUE = 5\n")
        archive.writestr("zipped/data.txt", "zipped text")
    sys.path.insert(0, str(world.folder / "z.zip"))
    try:
        seen = Seen()
        when_imported("zipped", seen)
        world.load("zipped")
        assert seen == ["zipped"]
        assert pkgutil.get_data("zipped", "data.txt") == b"zipped text"
    finally:
        sys.path.remove(str(world.folder / "z.zip"))


def test_a_namespace_package(world: World) -> None:
    seen = Seen()
    when_imported("space", seen)
    space = world.load("space")
    assert seen == ["space"]
    assert type(space.__spec__) is importlib.machinery.ModuleSpec
    assert world.load("space.inner").VALUE == 3


def test_a_module_that_replaces_itself(world: World) -> None:
    world.write(
        {
            "selfmade.py": """
                import sys, types
                class Lazy(types.ModuleType):
                    VALUE = 6
                sys.modules[__name__] = made = Lazy(__name__)
                made.__spec__ = __spec__
                import other
                made.READY = True
            """
        }
    )
    ready: list[Any] = []
    when_imported("selfmade", lambda module: ready.append((module, hasattr(module, "READY"))))
    module = world.load("selfmade")
    assert ready == [(module, True)]


def test_importlibs_lazy_loader(world: World) -> None:
    """It is not woken; whoever wakes it gets it with the callback done. In either order."""
    for order in ("waiting first", "lazy first"):
        seen = Seen()
        if order == "waiting first":
            when_imported("other", seen)
        spec = importlib.util.find_spec("other")
        assert spec is not None
        assert spec.loader is not None
        spec.loader = loader = importlib.util.LazyLoader(spec.loader)
        sys.modules["other"] = module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        if order == "lazy first":
            when_imported("other", seen).cancel()
            assert type(spec.loader) is importlib.machinery.SourceFileLoader
            when_imported("other", seen)
        world.load("pkg")
        assert seen == []
        assert module.seen
        assert type(module.__loader__) is importlib.machinery.SourceFileLoader
        del sys.modules["other"]


def test_a_module_in_the_middle_of_its_import(world: World) -> None:
    """auto() called from within the import of the very library, with nothing imported after."""
    world.write({"middle.py": "import hook\nhook.run()\nimport pkg.sub\nLAST = 1\n", "hook.py": ""})
    ends: list[bool] = []
    world.load("hook").run = lambda: when_imported(
        "middle", lambda module: ends.append(hasattr(module, "LAST"))
    )
    module = world.load("middle")
    assert ends == [True]
    assert type(module.__spec__) is importlib.machinery.ModuleSpec
    assert not module.__spec__._initializing


def test_an_import_that_fails_is_none(world: World) -> None:
    world.write(
        {"falling.py": "import hook\nhook.run()\nraise ImportError('as ever', name='me')\n"}
    )
    world.write({"hook.py": ""})
    seen = Seen()
    world.load("hook").run = lambda: when_imported("falling", seen)
    for _ in range(2):
        with pytest.raises(ImportError, match=r"^as ever$") as caught:
            world.load("falling")
        assert caught.value.name == "me"
    assert seen == []
    world.write({"falling.py": "VALUE = 'mended now'\n"})
    world.load("falling")
    assert seen == ["falling", "falling"]


def test_a_missing_module_is_missing(world: World) -> None:
    waiting = when_imported("nowhere.at_all", Seen())
    also = when_imported("nowhere", Seen())
    with pytest.raises(ModuleNotFoundError, match="No module named 'nowhere'"):
        world.load("nowhere")
    assert importlib.util.find_spec("nowhere") is None
    waiting.cancel()
    also.cancel()


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(2)])
def test_what_a_callback_raises_stays_here(
    world: World, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def callback(module: types.ModuleType) -> None:
        raise error

    waiting, seen = when_imported("pkg", callback), Seen()
    when_imported("pkg", seen)
    world.load("pkg")
    assert waiting.error is error
    assert "what waited for pkg failed" in caplog.text
    assert seen == ["pkg"]


def test_callbacks_may_import_and_wait_themselves(world: World) -> None:
    seen = Seen()

    def callback(module: types.ModuleType) -> None:
        importlib.import_module("pkg")
        importlib.import_module("pkg.sub")
        when_imported("pkg", seen)
        when_imported("other", seen)

    when_imported("pkg", callback)
    world.load("pkg")
    assert seen == ["pkg"]
    world.load("other")
    assert seen == ["pkg", "other"]


@pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning")
def test_unnoticed_doors_are_seen_at_the_next_import_or_flush(world: World) -> None:
    seen = Seen()
    when_imported("assigned", seen)
    when_imported("second", seen)
    sys.modules["assigned"] = types.ModuleType("assigned")
    world.load("other")
    assert seen == ["assigned"]
    sys.modules["second"] = types.ModuleType("second")
    importing.flush()
    assert seen == ["assigned", "second"]
    del sys.modules["assigned"], sys.modules["second"]


def test_a_callback_that_ends_the_waiting_during_another_import(
    world: World, monkeypatch: Any
) -> None:
    """The finder leaves while importlib walks the list of finders: none may be skipped."""

    class OnlyThis:
        def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
            location = world.folder / "other.py"
            found = importlib.util.spec_from_file_location("only_here", location)
            return found if name == "only_here" else None

    when_imported("assigned", Seen())
    monkeypatch.setitem(sys.modules, "assigned", types.ModuleType("assigned"))
    sys.meta_path.insert(1, only_this := OnlyThis())
    try:
        assert world.load("only_here").VALUE == 4
        assert importing._finder not in sys.meta_path
    finally:
        sys.meta_path.remove(only_this)


def test_many_threads_import_once(world: World) -> None:
    world.write({"slowly.py": "import time\ntime.sleep(0.05)\nVALUE = 1\n"})
    seen = Seen()
    when_imported("slowly", seen)
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda: found.append(importlib.import_module("slowly").seen))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    assert seen == ["slowly"]
