"""tools/environment.py: what it takes for an accelerator, and which torch it chooses."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("environment", ROOT / "tools/environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["environment"] = module
    spec.loader.exec_module(module)
    return module


def card(root: Path, address: str, vendor: str, device: str, kind: str) -> None:
    folder = root / "sys/bus/pci/devices" / address
    folder.mkdir(parents=True)
    for name, value in (("vendor", vendor), ("device", device), ("class", kind)):
        (folder / name).write_text(f"0x{value}\n", encoding="ascii")


def test_an_empty_machine_has_no_accelerator(tool: ModuleType, tmp_path: Path) -> None:
    assert tool.accelerators(tmp_path) == ()


@pytest.mark.parametrize(
    ("node", "maker"),
    [
        ("nvidia0", "NVIDIA"),
        ("davinci0", "Ascend"),
        ("kfd", "AMD or Hygon"),
        ("cambricon_dev0", "Cambricon"),
        ("mtgpu.0", "Moore Threads"),
    ],
)
def test_device_nodes(tool: ModuleType, tmp_path: Path, node: str, maker: str) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / node).touch()
    assert tool.accelerators(tmp_path) == (maker,)


@pytest.mark.parametrize(
    ("vendor", "device", "kind", "makers"),
    [
        ("10de", "2e12", "030200", ("NVIDIA",)),
        ("1d94", "6210", "038000", ("AMD or Hygon",)),
        ("19e5", "d802", "120000", ("Ascend",)),
        ("19e5", "1711", "030000", ()),  # the display chip of a Huawei server
        ("8086", "56a0", "030000", ("Intel",)),
        ("8086", "46a6", "030000", ()),  # built into the processor
        ("10de", "1aef", "040300", ()),  # the sound of a graphics card
        ("1a03", "2000", "030000", ()),  # a server's console
    ],
)
def test_pci_ids(
    tool: ModuleType, tmp_path: Path, vendor: str, device: str, kind: str, makers: tuple[str, ...]
) -> None:
    card(tmp_path, "0000:01:00.0", vendor, device, kind)
    assert tool.accelerators(tmp_path) == makers


def test_given_torch_wins(tool: ModuleType) -> None:
    choice = tool.choose(" torch==2.9.0  torch-npu==2.9.0 ", ("NVIDIA",), {"torch": "2.1"}, "Linux")
    assert choice.alternatives == (("torch==2.9.0", "torch-npu==2.9.0"),)
    assert not choice.inherit


def test_without_accelerator_a_cpu_build_then_the_plain_one(tool: ModuleType) -> None:
    choice = tool.choose("", (), {"torch": "2.1"}, "Linux")
    first, second = choice.alternatives
    assert first[0].endswith("+cpu")
    assert second[0] + "+cpu" == first[0]


def test_a_vendors_torch_is_kept(tool: ModuleType) -> None:
    choice = tool.choose("", ("AMD or Hygon",), {"torch": "2.4.1+das"}, "Linux")
    assert choice.inherit
    assert choice.alternatives == ()
    assert "2.4.1+das" in choice.reason


def test_the_usual_torch_where_it_serves(tool: ModuleType) -> None:
    assert tool.choose("", ("NVIDIA",), {}, "Linux").alternatives == (("torch",),)
    assert tool.choose("", (), {}, "Darwin").alternatives == (("torch",),)


def test_another_makers_card_is_told_what_to_give(tool: ModuleType) -> None:
    choice = tool.choose("", ("Ascend",), {}, "Linux")
    assert choice.alternatives[0][0].endswith("+cpu")
    assert "TORCH=" in choice.reason


def test_a_failing_step_names_its_command(tool: ModuleType) -> None:
    code = "print('what went wrong'); raise SystemExit(3)"
    with pytest.raises(tool.Failed, match="what went wrong") as caught:
        tool.must("failing", [sys.executable, "-c", code], "this instead")
    assert "try: this instead" in str(caught.value)
    assert sys.executable in str(caught.value)


def test_the_next_alternative_only_where_the_index_lacks_the_first(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tool.Environment(tmp_path)
    choice = tool.choose("", (), {}, "Linux")
    asked: list[str] = []

    def answer(output: str) -> object:
        def step(text: str, command: list[str]) -> subprocess.CompletedProcess[str]:
            asked.append(command[-1])
            code = 1 if command[-1].endswith("+cpu") else 0
            return subprocess.CompletedProcess(command, code, output, "")

        return step

    monkeypatch.setattr(tool, "step", answer("ERROR: No matching distribution found"))
    environment.install_torch(choice)
    assert asked == [item[0] for item in choice.alternatives]
    asked.clear()
    monkeypatch.setattr(tool, "step", answer("ERROR: no route to host"))
    with pytest.raises(tool.Failed, match="no route to host"):
        environment.install_torch(choice)
    assert len(asked) == 1


def test_torch_and_what_belongs_to_it_stay_where_they_are(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tool.Environment(tmp_path)
    environment.python = sys.executable
    environment.pin_torch()
    kept = environment.constraints.read_text(encoding="utf-8").splitlines()
    assert f"torch=={version('torch')}" in kept
    names = "torch torch-npu Torch_MLU torchvision pytorch-triton-rocm triton accelerate my-torch"
    listed = "".join(f"{name}==1.0\n" for name in names.split())
    done = subprocess.CompletedProcess([], 0, listed, "")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: done)
    environment.pin_torch()
    kept = environment.constraints.read_text(encoding="utf-8").splitlines()
    own = ("Torch_MLU", "pytorch-triton-rocm", "torch-npu", "torch", "triton")
    assert sorted(kept) == sorted(f"{name}==1.0" for name in own)


@pytest.mark.parametrize(
    ("kept", "installed"),
    [
        ("torch==2.13.0+cpu\n", ["test", "compilers"]),
        ("torch==2.14.1\ntriton==3.8.0\n", ["test"]),
        ("pytorch-triton-rocm==3.4.0\ntorch==2.9.0\n", ["test"]),
        ("torch==2.9.0\ntorch-npu==2.9.0\ntriton-ascend==3.2.0\n", ["test"]),
    ],
)
def test_a_triton_that_came_with_the_torch_stays_alone(
    tool: ModuleType, tmp_path: Path, kept: str, installed: list[str]
) -> None:
    environment = tool.Environment(tmp_path)
    environment.constraints.write_text(kept, encoding="utf-8")
    assert environment.lacking(["test", "compilers"]) == installed


def test_an_unfinished_environment_is_not_taken_for_a_finished_one(
    tool: ModuleType, tmp_path: Path
) -> None:
    assert tool.Environment(tmp_path).known() == {}
    (tmp_path / tool.STAMP).write_text("{", encoding="utf-8")
    assert tool.Environment(tmp_path).known() == {}


def test_every_target_of_the_makefile_is_in_its_help() -> None:
    done = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory", "help"],
        capture_output=True,
        text=True,
        check=True,
    )
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    assert {"demo", "test", "test-all", "lint", "help", "clean"} <= listed
