"""`accel run`: a script runs as python runs it, patched, and its children too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from shell import accel, environment

SHOW = """
    import json, os, sys
    main = sys.modules["__main__"]
    print(json.dumps({
        "name": __name__, "file": __file__, "argv": sys.argv, "path": sys.path[0],
        "main": vars(main) is globals(), "spec": getattr(__spec__, "name", None),
        "package": __package__,
        "env": {k: v for k, v in os.environ.items() if k.startswith("ACCEL_")},
    }))
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    (tmp_path / "show.py").write_text(textwrap.dedent(SHOW))
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "__main__.py").write_text(textwrap.dedent(SHOW))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "show.py").write_text(textwrap.dedent(SHOW))
    (tmp_path / "link.py").symlink_to(tmp_path / "deep" / "show.py")
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["show.py"],
        ["show.py", "--device", "x", "-m", "--", "-v"],
        ["deep/show.py", "a b"],
        ["link.py"],
        ["-m", "pack", "--lr", "1"],
        ["-m", "pack.__main__"],
        ["-m", "deep.show"],
        ["pack", "--x"],
    ],
    ids=" ".join,
)
def test_run_is_as_python_runs_it(arguments: list[str], scripts: Path) -> None:
    plain = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=scripts,
        env=environment(),
    )
    done = accel("run", *arguments, cwd=scripts)
    assert done.returncode == 0, done.stderr
    wanted, found = json.loads(plain.stdout), json.loads(done.stdout)
    assert found.pop("env") == {**wanted.pop("env"), "ACCEL_AUTO": "1"}
    if os.path.isdir(scripts / arguments[0]):
        # runpy sets both from one path: an absolute one, so that a script may change folders.
        wanted["argv"][0] = os.path.abspath(scripts / wanted["argv"][0])
    assert found == wanted


def test_run_says_what_it_chose(scripts: Path) -> None:
    done = accel("run", "--device", "cpu", "show.py", cwd=scripts, env={"RANK": "3"})
    assert done.stderr.startswith("accel [rank 3]: cpu, ")
    assert "attention sdpa" in done.stderr


def test_children_choose_as_the_parent_did(scripts: Path) -> None:
    options = ("--strict", "--device", "cpu", "--attention", "eager")
    env = json.loads(accel("run", *options, "show.py", cwd=scripts).stdout)["env"]
    assert env == {
        "ACCEL_AUTO": "1",
        "ACCEL_ATTENTION": "eager",
        "ACCEL_DEVICE": "cpu",
        "ACCEL_PROBE": "0",
        "ACCEL_STRICT": "1",
    }


def test_run_patches_first(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("import accel; print(accel.current().attention)")
    assert accel("run", "--attention", "eager", "s.py", cwd=tmp_path).stdout == "eager\n"


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit('enough')", 1, "enough"),
        ("raise SystemExit(False)", 0, ""),
        ("import os; os._exit(9)", 9, ""),
    ],
)
def test_exit_codes_pass_through(source: str, code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(source)
    done = accel("run", "s.py", cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_scripts_own_error_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("def f():\n    raise ValueError('mine')\nf()\n")
    done = accel("run", "s.py", cwd=tmp_path)
    plain = subprocess.run(
        [sys.executable, "s.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == plain.returncode == 1
    assert done.stderr.endswith(plain.stderr)
    assert done.stderr.count("File ") == 2


def test_a_syntax_error_is_the_scripts_own(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("def\n")
    done = accel("run", "s.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "SyntaxError" in done.stderr
    assert "accel/cli" not in done.stderr


def test_an_interrupt_ends_the_script(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    done = accel("run", "s.py", cwd=tmp_path)
    assert done.returncode == 128 + signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr


def test_main_outlives_the_last_line_for_exit_handlers_and_workers(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        textwrap.dedent("""
        import atexit, multiprocessing, pickle

        class Thing: ...

        def work(x): return x + 1

        if __name__ == "__main__":
            atexit.register(lambda: print(len(pickle.dumps(Thing())) > 0))
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(work, [1, 2]))
        """)
    )
    done = accel("run", "s.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[2, 3]\nTrue\n"
