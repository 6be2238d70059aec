"""What `accel new-plugin` writes installs, is found and passes the suite, before it is edited."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel.creating import FILES, new_plugin
from accel.errors import InputError
from accel.recording import load

HERE = Path(__file__).parent


def run(folder: Path, *command: str, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**env, "PYTHONPATH": str(site)} if site else env,
    )


def installed(folder: Path, site: Path) -> Path:
    """The package in `folder`, installed into `site` as pip installs a stranger's."""
    done = run(
        folder,
        *("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"),
        *("--target", str(site), "."),
    )
    assert done.returncode == 0, done.stderr
    return site


def test_unedited_it_installs_is_found_and_passes(tmp_path: Path) -> None:
    folder, site = tmp_path / "empty", tmp_path / "site"
    folder.mkdir()
    made = run(folder, "-m", "accel", "new-plugin", "acme")
    assert made.returncode == 0, made.stderr
    assert made.stdout.split("\n")[0] == "accel_acme/__init__.py"
    installed(folder, site)
    listed = run(tmp_path, "-m", "accel", "plugins", "--json", site=site)
    found = {p["name"]: p for p in json.loads(listed.stdout)["plugins"]}
    assert found["acme"]["status"] == "loaded"
    tested = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", site=site)
    assert tested.returncode == 0, tested.stdout
    assert "failed" not in tested.stdout


def test_one_that_is_found_by_its_bridge_passes_too(tmp_path: Path) -> None:
    folder, site = tmp_path / "new" / "folder", tmp_path / "site"
    options = ["--found-by", "bridge", "--bridge", "torch_openreg", "--kind", "openreg"]
    made = run(tmp_path, "-m", "accel", "new-plugin", "reg", "--into", str(folder), *options)
    assert made.returncode == 0, made.stderr
    installed(folder, site)
    only = [word for rule in ("load", "claim", "answer", "error") for word in ("--only", rule)]
    done = run(tmp_path, "-m", "accel", "conformance", "reg", *only, site=site)
    assert done.returncode == 0, done.stdout
    explained = run(tmp_path, "-m", "accel", "devices", "--machine", "reg-one", site=site)
    assert "openreg:0" in explained.stdout


@pytest.mark.parametrize("found_by", ["pci", "bridge"])
def test_there_are_under_forty_lines_of_code_to_fill_in(found_by: str, tmp_path: Path) -> None:
    new_plugin("acme", tmp_path / "a", found_by=found_by)  # type: ignore[arg-type]
    source = (tmp_path / "a" / "accel_acme" / "__init__.py").read_text()
    ast.parse(source)
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) < 40
    assert all(len(line) <= 100 for line in source.splitlines())
    written = {str(p.relative_to(tmp_path / "a")) for p in (tmp_path / "a").rglob("*.*")}
    values = {"package": "accel_acme", "machine": "acme-one", "name": "acme"}
    assert written == {target.format(**values) for target in FILES.values()}
    machine = load(tmp_path / "a" / "accel_acme" / "machines" / "acme-one.json")
    assert machine.kind == "composed"


@pytest.mark.parametrize(
    "name", ["cpu", "torch", "2fast", "Acme", "a b", "", "class", "test", "../up", "x" * 31, "a__b"]
)
def test_bad_names_are_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be called") as caught:
        new_plugin(name, tmp_path / "new")
    assert caught.value.found
    assert caught.value.remedy
    assert not (tmp_path / "new").exists()


@given(name=st.text(max_size=12))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_name_or_an_input_error(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any") / "new"
    try:
        files = new_plugin(name, folder)
    except InputError:
        assert not folder.exists()
    else:
        assert all(file.is_file() and folder in file.parents for file in files)
        ast.parse(files[0].read_text())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pci": "1DA3"}, "--pci"),
        ({"pci": "0x1da3"}, "--pci"),
        ({"kind": 'a"b'}, "--kind"),
        ({"bridge": "torch x"}, "--bridge"),
    ],
)
def test_bad_values_are_refused(options: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        new_plugin("acme", tmp_path / "new", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty") as caught:
        new_plugin("acme", tmp_path)
    assert caught.value.found == "mine.txt"
    assert os.listdir(tmp_path) == ["mine.txt"]
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    assert new_plugin("acme", tmp_path / "repository")
    with pytest.raises(InputError, match="is no folder"):
        new_plugin("acme", tmp_path / "mine.txt")


def test_two_new_plugins_get_along(tmp_path: Path) -> None:
    ids = set()
    for name in ("acme", "bolt", "cord"):
        new_plugin(name, tmp_path / name)
        file = tmp_path / name / f"accel_{name}" / "machines" / f"{name}-one.json"
        ids.add(json.loads(file.read_text())["pci"][0]["vendor"])
    assert len(ids) == 3
