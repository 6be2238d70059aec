"""The device of CONTRIBUTING.md is written out, installed as a stranger's would be, and tested."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BEGINNING = "new-plugin gaudi --pci 1da3 --kind hpu --bridge habana-torch-plugin"
BLOCK = re.compile(r"^\*\*`([^`]+)`\*\*\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, in a folder."""
    folder = tmp_path_factory.mktemp("gaudi")
    begun = subprocess.run(
        [sys.executable, "-m", "accel", *shlex.split(BEGINNING)], cwd=folder, check=False
    )
    assert begun.returncode == 0
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"accel {BEGINNING}" in text
    files = dict(BLOCK.findall(text))
    assert set(files) == {
        "accel_gaudi/__init__.py",
        "accel_gaudi/facts.toml",
        "accel_gaudi/machines/gaudi-one.json",
        "pyproject.toml",
        "tests/test_gaudi.py",
    }
    assert all((folder / name).is_file() for name in files)  # each was begun by the command
    assert (folder / "pyproject.toml").read_text(encoding="utf-8") == files["pyproject.toml"]
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def environment(example: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the example is installed."""
    target = tmp_path_factory.mktemp("gaudi-installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*command, "--no-build-isolation", "--target", str(target), str(example)], check=True
    )
    return {**os.environ, "PYTHONPATH": str(target)}


def test_it_comes_first() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "Add a device in ten minutes"


def test_its_own_tests_and_the_suite_pass(example: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        check=False,
        cwd=example,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed.group(1)) >= 2 + 13  # its own, and the suite's rules that need no card
    assert "failed" not in done.stdout


def test_the_commands_of_the_page_know_it(example: Path, environment: dict[str, str]) -> None:
    for command in (["plugins"], ["explain", "--machine", "gaudi-one"]):
        done = subprocess.run(
            [sys.executable, "-m", "accel", *command],
            capture_output=True,
            text=True,
            check=False,
            cwd=example,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        assert "gaudi" in done.stdout.lower()
