"""What is built is what is meant: names, data, entry points, metadata."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("plugins", "kernels")
TOP_LEVEL = {
    "accel",
    "accel_ascend",
    "accel_cambricon",
    "accel_cpu",
    "accel_frameworks",
    "accel_kernels",
    "accel_mps",
    "accel_musa",
    "accel_nvidia",
    "accel_rocm",
    "accel_simulator",
    "accel_xpu",
}
DEVICES = sorted(TOP_LEVEL - {"accel", "accel_frameworks", "accel_kernels", "accel_simulator"})


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel"]
    done = subprocess.run(
        [*command, "--outdir", str(folder), str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (item for item in archive.namelist() if item.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode("utf-8"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel alone, installed into a folder."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    return target


def run_installed(installed: Path, code: str, *arguments: str) -> str:
    """Run code where accel is only what was installed: without site, no editable install counts."""
    libraries = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    start = f"import sys; sys.path[:0] = {[str(installed), *libraries]!r}\n"
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", start + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=installed,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_exactly_these_top_level_names(wheel_files: set[str]) -> None:
    names = {name.split("/")[0] for name in wheel_files}
    assert {name for name in names if not name.endswith(".dist-info")} == TOP_LEVEL


def test_source_roots_are_not_packages() -> None:
    for name in SOURCE_ROOTS:
        assert (ROOT / name).is_dir()
        assert not (ROOT / name / "__init__.py").exists()


def test_neither_source_root_can_be_imported_once_installed(installed: Path) -> None:
    code = (
        "import importlib.util as u, sys\n"
        "for name in sys.argv[2:]:\n"
        "    spec = u.find_spec(name)\n"
        "    where = [] if spec is None else list(spec.submodule_search_locations or [])\n"
        "    assert not any(path.startswith(sys.argv[1]) for path in where), (name, where)\n"
    )
    run_installed(installed, code, str(installed), *SOURCE_ROOTS)


def test_another_kernels_package_is_not_hidden_in_the_repository_root(tmp_path: Path) -> None:
    """Hugging Face publishes a package of that name, which transformers imports."""
    for name in SOURCE_ROOTS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("who = 'theirs'\n", encoding="utf-8")
    code = "import sys; sys.path.append(sys.argv[1])\nimport kernels, plugins\n"
    code += "print(kernels.who, plugins.who)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.stdout.split() == ["theirs", "theirs"], done.stderr


def test_every_file_of_the_packages_is_in_the_wheel(wheel_files: set[str]) -> None:
    expected = set()
    for base in (ROOT, *(ROOT / name for name in SOURCE_ROOTS)):
        for top in TOP_LEVEL:
            for path in (base / top).rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    expected.add(path.relative_to(base).as_posix())
    assert expected
    assert expected <= wheel_files


@pytest.mark.parametrize("package", DEVICES)
def test_a_device_brings_its_facts_and_a_recorded_machine(
    package: str, wheel_files: set[str]
) -> None:
    assert [name for name in wheel_files if re.fullmatch(rf"{package}/\w+\.toml", name)]
    machines = [name for name in wheel_files if name.startswith(f"{package}/machines/")]
    assert [name for name in machines if name.endswith(".json")]


def test_the_core_is_marked_typed(wheel_files: set[str]) -> None:
    assert "accel/py.typed" in wheel_files


def test_every_entry_point_resolves(installed: Path) -> None:
    code = (
        "import importlib.metadata as m, sys\n"
        "(found,) = [d for d in m.distributions(path=[sys.argv[1]]) if d.name == 'accel-hal']\n"
        "for point in found.entry_points:\n"
        "    point.load()\n"
        "    assert sys.modules[point.module].__file__.startswith(sys.argv[1]), point\n"
        "    print(point.group, point.name)\n"
        "assert 'torch' not in sys.modules\n"
    )
    printed = run_installed(installed, code, str(installed)).splitlines()
    assert "torch.backends accel_hal" in printed
    assert "console_scripts accel" in printed
    assert {"accel cpu", "accel hopper", "accel llamafactory", "accel demo"} <= set(printed)


def test_a_recorded_machine_is_found_once_installed(installed: Path) -> None:
    code = "from accel import testing\nprint(len(testing.machines()))"
    assert int(run_installed(installed, code)) >= 25


def test_metadata(metadata: Message) -> None:
    assert metadata["Name"] == "accel-hal"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "make demo" in str(metadata.get_payload())
    extras = set(metadata.get_all("Provides-Extra") or [])
    assert {"ascend", "triton", "llamafactory", "deepspeed", "demo", "test", "dev"} <= extras


def test_what_is_required_is_here_in_a_version_that_will_do(metadata: Message) -> None:
    checked = 0
    for line in metadata.get_all("Requires-Dist") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(version, prereleases=True), line
        checked += 1
    assert checked >= 9


def test_the_sdist_has_what_a_packager_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "LICENSE",
        "README.md",
        "README.zh.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "Makefile",
        "pyproject.toml",
        "docs/design.md",
        "docs/plugins.md",
        "tests/packaging/test_distribution.py",
        "tools/environment.py",
    }
    assert wanted <= names
    assert not [name for name in names if name.startswith((".venv", "demo-output", ".demo"))]
