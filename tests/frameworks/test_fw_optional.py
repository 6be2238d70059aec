"""A package that is installed and cannot be imported is absent, or stood in for, and it is said."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import pytest

from accel.values import Level
from accel_frameworks import peft, torch, torchaudio, transformers
from accel_frameworks.optional import STAND_IN, Optional


@pytest.fixture
def package(tmp_path: Path, monkeypatch):
    """Write a package that does `body` when it is imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, body: str, part: str = "x = 1\n") -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.py").write_text(part)
        (tmp_path / name / "__init__.py").write_text(body)
        importlib.invalidate_caches()
        return name

    yield write
    for name in [key for key in sys.modules if key.startswith(("accel_test_", "torchaudio"))]:
        del sys.modules[name]


@pytest.mark.parametrize("error", ["RuntimeError", "OSError", "ImportError", "AssertionError"])
def test_a_broken_package(package, capable, error):
    name = package(
        f"accel_test_{error.lower()}", f"from . import part\nraise {error}('built for another')"
    )
    capabilities = capable()
    optional = Optional(name, capabilities, without="pictures are off")
    for _ in range(2):
        assert optional.problem() == f"{error}: built for another"
    assert not [key for key in sys.modules if key.startswith(name)], "nothing half-imported is left"
    (note,) = capabilities.notes
    assert (note.level, note.subject) == (Level.WARNING, name)
    assert "pictures are off" in note.message
    assert f"pip uninstall -y {name}" in note.remedy


def test_the_innermost_cause_is_named(package, capable):
    body = (
        "try:\n    raise OSError('libfoo.so.13')\n"
        "except OSError as error:\n    raise RuntimeError('no') from error"
    )
    name = package("accel_test_cause", body)
    assert Optional(name, capable(), without="").problem() == "OSError: libfoo.so.13"


def test_a_package_that_works_is_imported_and_one_that_is_absent_is_no_problem(package, capable):
    capabilities = capable()
    name = package("accel_test_fine", "y = 2\n")
    assert Optional(name, capabilities, without="").problem() is None
    assert sys.modules[name].y == 2
    assert Optional("accel_test_absent", capabilities, without="").problem() is None
    assert capabilities.notes == ()


def test_a_broken_package_is_tried_once(package, capable, tmp_path):
    tries = str(tmp_path / "tries")
    body = f"with open({tries!r}, 'a') as file:\n    file.write('x')\nraise OSError('no')"
    optional = Optional(package("accel_test_once", body), capable(), without="")
    optional.problem()
    optional.problem()
    assert (tmp_path / "tries").read_text() == "x"


def test_the_question_of_transformers(package, capable):
    name = package("accel_test_vision", "raise RuntimeError('operator nms does not exist')")
    module = types.SimpleNamespace(BACKENDS_MAPPING={})

    def original():
        return importlib.util.find_spec(name) is not None

    module.is_it_there = original
    module.BACKENDS_MAPPING[name] = (original, "install it")
    optional = Optional(name, capable(), without="")
    undo = transformers._in_backends(module, name, "is_it_there")
    module.is_it_there = transformers._importable(original, optional)
    assert original()
    assert not module.is_it_there()
    assert not module.BACKENDS_MAPPING[name][0](), "the table asks the present function"
    assert module.BACKENDS_MAPPING[name][1] == "install it"
    undo()
    assert module.BACKENDS_MAPPING[name] == (original, "install it")


@pytest.fixture
def stand_in(capable, monkeypatch):
    capabilities = capable()
    (patch,) = torchaudio.accel_patches(capabilities)
    before = list(sys.meta_path)
    undo = patch.seam(sys)
    yield capabilities, undo
    undo()
    assert sys.meta_path == before


def test_a_torchaudio_that_raises_oserror_is_stood_in_for(package, stand_in):
    capabilities, undo = stand_in
    package(
        "torchaudio", "from . import part\nvalue = 3\nraise OSError('Could not load libcudart')"
    )
    module = importlib.import_module("torchaudio")
    assert importlib.util.find_spec("torchaudio") is module.__spec__ is not None
    assert not hasattr(module, "value"), "nothing of the half-executed module is left"
    with pytest.raises(torchaudio.StandInUsed, match="libcudart") as caught:
        _ = module.load
    assert "torchaudio.load" in str(caught.value)
    assert isinstance(caught.value, AttributeError)
    with pytest.raises(ModuleNotFoundError, match="libcudart"):
        importlib.import_module("torchaudio.part")
    assert [note.subject for note in capabilities.notes] == ["torchaudio"]
    undo()
    assert "torchaudio" not in sys.modules
    with pytest.raises(OSError, match="libcudart"):
        importlib.import_module("torchaudio")


def test_a_torchaudio_that_works_is_untouched(package, stand_in):
    capabilities, undo = stand_in
    package("torchaudio", "value = 3\n")
    module = importlib.import_module("torchaudio")
    assert module.value == 3
    assert not hasattr(module, STAND_IN)
    assert not isinstance(module.__spec__.loader, torchaudio.Loader), "the real loader is back"
    assert importlib.import_module("torchaudio.part").x == 1
    assert capabilities.notes == ()
    undo()
    assert sys.modules["torchaudio"] is module


def test_a_torchaudio_that_keeps_to_importerror_keeps_it(package, stand_in, monkeypatch):
    monkeypatch.delitem(sys.modules, "llamafactory", raising=False)
    package("torchaudio", "raise ImportError('needs codec')")
    with pytest.raises(ImportError, match="needs codec"):
        importlib.import_module("torchaudio")
    monkeypatch.setitem(sys.modules, "llamafactory", types.ModuleType("llamafactory"))
    module = importlib.import_module("torchaudio")
    assert "needs codec" in getattr(module, STAND_IN)


def test_an_absent_torchaudio_stays_absent(stand_in, monkeypatch):
    capabilities, _undo = stand_in
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    importlib.invalidate_caches()
    finders = [f for f in sys.meta_path if "editable" not in type(f).__module__]
    monkeypatch.setattr(sys, "meta_path", finders)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("torchaudio")
    assert capabilities.notes == ()


def test_a_stand_in_is_a_problem_for_who_asks(package, stand_in):
    capabilities, _undo = stand_in
    package("torchaudio", "raise OSError('Could not load libcudart')")
    problem = Optional("torchaudio", capabilities, without="audio is off").problem()
    assert problem == "OSError: Could not load libcudart"


def test_half_a_quantisation_toolkit_does_not_stop_peft(capable):
    def original():
        raise ImportError("gptqmodel requires optimum version `1.24.0` or higher to be installed.")

    capabilities = capable()
    patch, *_ = peft.accel_patches(capabilities.device, capabilities)
    answer = patch.replace(original)
    assert answer() is False
    assert answer() is False
    (note,) = capabilities.notes
    assert "optimum" in note.message
    assert note.remedy == "pip install 'optimum>=1.24'"
    assert patch.replace(lambda: True)() is True


@pytest.mark.parametrize("has", [True, False])
def test_is_bf16_supported_is_the_device_s_answer(capable, has):
    dtype = ("bfloat16", "float32") if has else ("float32",)
    capabilities = capable(kind="cuda", dtype=dtype)
    (patch,) = torch.accel_patches(capabilities.device, capabilities)
    answer = patch.replace(lambda including_emulation=True: not has)
    assert answer() is has
    assert answer(including_emulation=False) is has


def test_is_bf16_supported_is_left_alone_on_other_devices(capable):
    for kind in ("cpu", "npu", "mlu"):
        capabilities = capable(kind=kind)
        targets = [p.target for p in torch.accel_patches(capabilities.device, capabilities)]
        assert targets == ["torch"]  # CUDA's names are redirected, that question among them
    undeclared = capable(kind="cuda", dtype=())
    assert list(torch.accel_patches(undeclared.device, undeclared)) == []
