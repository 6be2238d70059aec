"""Bridges whose import raises: torch goes on, a script does, a library gets its ImportError."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap

import pytest

from accel_frameworks import bridges
from accel_frameworks.standins import StandInUsed

GUARDED = """
try:
    import torch_acme
except ImportError:
    torch_acme = None
"""


@pytest.mark.parametrize(
    ("source", "line", "guarded"),
    [
        ("import torch_acme\n", 1, False),
        (GUARDED, 3, True),
        ("if True:\n    import torch_acme\n", 2, False),
        ("try:\n    pass\nfinally:\n    import torch_acme\n", 4, False),
        ("try:\n    import torch_acme\nfinally:\n    pass\n", 2, False),
        ("try:\n    pass\nexcept ImportError:\n    import torch_acme\n", 4, False),
        ("x = 1\n", 1, True),
        ("import (\n", 1, True),
    ],
)
def test_an_import_in_a_try_is_its_author_s(tmp_path, source, line, guarded):
    path = tmp_path / "script.py"
    path.write_text(source)
    assert bridges.guarded_import(str(path), line) is guarded


def test_what_cannot_be_read_is_left_alone():
    assert bridges.guarded_import("<stdin>", 1) is True


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """A bridge, installed with its entry point, that needs a library which is not there."""
    folder = tmp_path / "site"
    (folder / "torch_acme").mkdir(parents=True)
    body = "from . import part\nraise ImportError('libacme.so: cannot open shared object file')\n"
    (folder / "torch_acme" / "__init__.py").write_text(body)
    (folder / "torch_acme" / "part.py").write_text("x = 1\n")
    info = folder / "torch_acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch-acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[torch.backends]\nacme = torch_acme:_autoload\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv(bridges.AUTOLOAD, raising=False)
    return folder


def test_torch_s_own_loading_gets_an_inert_one(acme, capable):
    assert bridges.bridges()["torch_acme"] == "_autoload"
    capabilities = capable()
    undo = bridges.install(capabilities, {"torch_acme": "_autoload"})
    try:
        (entry,) = [
            one
            for one in importlib.metadata.entry_points(group=bridges.GROUP)
            if one.name == "acme"
        ]
        assert entry.load()() is None
        assert os.environ[bridges.AUTOLOAD] == "0", "for what this process starts"
        (note,) = capabilities.notes
        assert "libacme.so" in note.message
        import torch_acme

        with pytest.raises(StandInUsed, match=r"libacme\.so"):
            _ = torch_acme.is_available
        assert "torch_acme.part" not in sys.modules
    finally:
        undo()
    assert "torch_acme" not in sys.modules
    assert bridges.AUTOLOAD not in os.environ


def test_taking_it_back_leaves_the_users_setting_alone(acme, capable):
    undo = bridges.install(capable(), {"torch_acme": "_autoload"})
    os.environ[bridges.AUTOLOAD] = "1"
    undo()
    assert os.environ[bridges.AUTOLOAD] == "1", "no bridge failed, so nothing was set"


def test_a_library_gets_the_error_it_expects(acme, capable):
    undo = bridges.install(capable(), {"torch_acme": "_autoload"})
    try:
        with pytest.raises(ImportError, match=r"libacme\.so"):
            importlib.import_module("torch_acme")
        assert "torch_acme" not in sys.modules
    finally:
        undo()


SCRIPT = """
import accel
report = accel.auto()
import torch_acme
from torch_acme.contrib import transfer
try:
    import torch_acme.other
except ImportError:
    raise SystemExit("a stand-in has its parts")
print("NOTES", [note.subject for note in report.notes])
report.revert()
try:
    import torch_acme
except ImportError as error:
    print("AGAIN", error)
"""


def test_a_script_that_begins_with_it_goes_on(acme, run, tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    ended: subprocess.CompletedProcess[str] = run(
        "script.py", ACCEL_DEVICE="cpu", ACCEL_PROBE="0", PYTHONPATH=str(acme)
    )
    assert ended.returncode == 0, ended.stderr
    assert "NOTES ['torch_acme']" in ended.stdout
    assert "AGAIN libacme.so" in ended.stdout
