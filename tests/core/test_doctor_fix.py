"""`accel doctor --fix`: what it understands, asks and does, and what it leaves to the user."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.cli import main, mending
from accel.cli.output import write_whole
from accel.doctor import Diagnosis, Finding
from accel.doctor.mending import Plan, carry_out, child_environment, plan, variables_in
from accel.errors import InputError
from shell import accel, distribution


def finding(command: str, **fields: Any) -> Finding:
    return Finding(
        id="x", severity="error", subject="it", evidence="is ill", command=command, **fields
    )


def planned(*commands: str, folder: Path = Path()) -> Plan:
    return plan([finding(command) for command in commands], folder / "env.sh")


UNDERSTOOD = {
    "pip install torch==2.13.0": (("install", "torch==2.13.0"),),
    'pip install --force-reinstall "torch==2.11.0"': (
        ("install", "--force-reinstall", "torch==2.11.0"),
    ),
    "pip install 'torch-npu==2.9.0.*'": (("install", "torch-npu==2.9.0.*"),),
    'pip install "transformers>=4.55,!=4.57.0"': (("install", "transformers>=4.55,!=4.57.0"),),
    "pip uninstall -y a b && pip install a==1": (
        ("uninstall", "-y", "a", "b"),
        ("install", "a==1"),
    ),
}
BY_HAND = [
    "sudo modprobe xe",
    "uv pip install --reinstall torch --torch-backend=cpu",
    "pip install torch_x-*+torch2.7-*.whl  # a wheel of the SDK",
    "pip install ./wheel.whl",
    "pip install x @ https://example.org/x.whl",
    "pip install --index-url=https://example.org x",
    "pip install -r requirements.txt",
    "pip install x; rm -rf /",
    "pip install x && rm -rf /",
    "pip install $(whoami)",
    "pip install `whoami`",
    "pip install x > y",
    "pip install",
    "pip download x",
    "pip install 'unclosed",
    "export A=$(whoami)",
    "export A=b; rm x",
    "export 1A=b",
    "export A",
    "unset A=b",
    "export",
    "source set_env.sh",
    "",
]


@pytest.mark.parametrize("command", UNDERSTOOD)
def test_pip_commands_that_are_carried_out(command: str) -> None:
    (step,) = planned(command).steps
    assert step.pip == UNDERSTOOD[command]


@pytest.mark.parametrize("command", BY_HAND)
def test_everything_else_is_left_to_the_user(command: str) -> None:
    made = planned(command)
    assert made.steps[0].by_hand
    assert not made.does_something
    assert "by hand" in str(made)


def test_variables_are_understood() -> None:
    made = planned("export A=b C='d e'", "unset F", "export A=b C='d e'")
    assert variables_in(made) == {"A": "b", "C": "d e", "F": None}
    assert len(made.steps) == 2


@given(st.text(max_size=20), st.text("abc '\"$`;&|<>#*\\\n=", max_size=20))
def test_no_command_is_misunderstood(text: str, rest: str) -> None:
    """Whatever is carried out holds nothing that a shell would have acted on."""
    for command in (f"pip install {rest}", f"export A={rest}", text):
        for step in planned(command).steps:
            words = [word for arguments in step.pip for word in arguments]
            assert not any(set(word) & set("`$;|\n") for word in words)
            for _, value in step.variables:
                assert value is not None or command.startswith("unset")


def test_it_writes_files_and_variables_then_runs_pip(tmp_path: Path) -> None:
    ran: list[Sequence[str]] = []
    told: list[str] = []
    files = {"held.txt": "torch==1\n"}
    made = plan(
        [
            finding("pip install x"),
            finding("export PIP_CONSTRAINT={folder}/held.txt", files=files),
            finding("reboot", files={"never.txt": ""}),
        ],
        tmp_path / "env.sh",
    )

    def pip(arguments: Sequence[str]) -> int:
        assert (tmp_path / "env.sh").exists()
        ran.append(arguments)
        return 0

    assert carry_out(made, write=write_whole, pip=pip, tell=told.append)
    assert ran == [("install", "x")]
    assert (tmp_path / "held.txt").read_text() == "torch==1\n"
    assert not (tmp_path / "never.txt").exists()
    shell = f". {tmp_path}/env.sh; printf %s $PIP_CONSTRAINT"
    assert subprocess.check_output(["sh", "-c", shell], text=True) == f"{tmp_path}/held.txt"
    assert any("source" in line for line in told)
    assert child_environment(made)["PIP_CONSTRAINT"] == f"{tmp_path}/held.txt"


def test_the_file_of_variables_keeps_what_others_wrote(tmp_path: Path) -> None:
    file = tmp_path / "env.sh"
    file.write_text("# mine\nexport A=old\nexport KEPT=1\nunset B\n")
    made = planned("export A='new one'", "export B=2", "unset C", folder=tmp_path)
    carry_out(made, write=write_whole, tell=lambda line: None)
    assert file.read_text() == ("# mine\nexport KEPT=1\nexport A='new one'\nexport B=2\nunset C\n")


def test_only_lines_of_its_own_form_give_way(tmp_path: Path) -> None:
    file = tmp_path / "env.sh"
    mine = "echo A is set below\nsource A/activate\nexport A=1 KEPT=2\n"
    file.write_text(f"{mine}export A='an old one'\n")
    made = planned("export A=new", folder=tmp_path)
    for _ in range(2):
        carry_out(made, write=write_whole, tell=lambda line: None)
        assert file.read_text() == f"{mine}export A=new\n"
    shell = f". {file} 2>/dev/null; printf %s $A,$KEPT"
    file.write_text(file.read_text().replace("source A/activate\n", ""))
    assert subprocess.check_output(["sh", "-c", shell], text=True).endswith("new,2")


def test_a_file_of_variables_that_cannot_be_read_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "env.sh"
    file.write_bytes(b"export A=\xff\n")
    made = plan([finding("export B=1", files={"held.txt": ""})], file)
    with pytest.raises(InputError, match="--env-file"):
        carry_out(made, write=write_whole, tell=lambda line: None)
    assert file.read_bytes() == b"export A=\xff\n"
    assert [path.name for path in tmp_path.iterdir()] == ["env.sh"]


def test_a_folder_may_have_blanks_in_its_name(tmp_path: Path) -> None:
    made = plan([finding("export A={folder}/held.txt")], tmp_path / "my files" / "env.sh")
    assert variables_in(made) == {"A": f"{tmp_path}/my files/held.txt"}


def test_after_a_failure_of_pip_nothing_more_is_done(tmp_path: Path) -> None:
    ran: list[Sequence[str]] = []
    told: list[str] = []

    def pip(arguments: Sequence[str]) -> int:
        ran.append(arguments)
        return 3

    made = planned("pip install a", "pip install b", folder=tmp_path)
    assert not carry_out(made, write=write_whole, pip=pip, tell=told.append)
    assert ran == [("install", "a")]
    assert "exit code 3" in told[-1]


# The command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fix", "--machine", "h100"), "cannot be mended"),
        (("--yes",), "accel doctor --fix --yes"),
        (("--fix",), "no terminal"),
        (("--fix", "--json"), "accel doctor --fix --yes"),
    ],
)
def test_options_that_do_not_go_together(arguments: tuple[str, ...], said: str) -> None:
    done = accel("doctor", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    json_too = "--json" in arguments
    assert bool(done.stdout) is json_too
    assert not json_too or json.loads(done.stdout)["schema"] == "accel-error/1"


class Terminal:
    """stdin of somebody who is asked."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "written"), [("y", True), ("n", False), ("", False)])
def test_it_asks_first(
    answer: str, written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ill = Diagnosis("box", (finding("export ACME=1"),), ())
    monkeypatch.setattr(mending, "examine", lambda machine: ill)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda question: answer)
    again: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        again.append(command)
        assert options["env"]["ACME"] == "1"
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    file = tmp_path / "env.sh"
    code = main(["doctor", "--fix", "--env-file", str(file)])
    assert file.exists() is written
    assert bool(again) is written
    assert code == (0 if written else 1)  # healthy, says the second look


def test_a_healthy_machine_needs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mending, "examine", lambda machine: Diagnosis("box", (), ()))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("nothing to run"))
    assert main(["doctor", "--fix", "--yes", "--env-file", str(tmp_path / "env.sh")]) == 0
    assert list(tmp_path.iterdir()) == []


def test_what_only_hands_can_do_is_shown_and_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ill = Diagnosis("box", (finding("sudo reboot"),), ())
    monkeypatch.setattr(mending, "examine", lambda machine: ill)
    assert main(["doctor", "--fix", "--yes"]) == 1
    assert "by hand   sudo reboot" in capsys.readouterr().err


def test_variables_are_written_and_the_second_look_has_them(tmp_path: Path) -> None:
    """Two backends break `import torch`: with the variable it can be imported.

    The pip of this test is a stand-in: the real one would mend the environment that tests run in.
    """
    source = """
        import os
        if os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD") != "0":
            raise RuntimeError("Failed to load the backend extension: torch_acme")
    """
    distribution(tmp_path, "torch", "", torch=source, pip="raise SystemExit(0)")
    for name in ("torch-acme", "torch-b"):
        env = distribution(tmp_path, name, "")
        info = tmp_path / f"{name.replace('-', '_')}-0.1.dist-info" / "entry_points.txt"
        info.write_text(f"[torch.backends]\n{name} = x:load\n")
    file = tmp_path / "env.sh"
    done = accel("doctor", "--fix", "--yes", "--json", "--env-file", file, env=env)
    body = json.loads(done.stdout)
    assert "torch-backend-broken" in {each["id"] for each in body["findings"]}
    assert body["plan"]["env_file"] == str(file)
    assert "export TORCH_DEVICE_BACKEND_AUTOLOAD=0" in file.read_text()
    again = done.stderr.partition("wrote ")[2]
    assert "torch-backend-broken" not in again


@pytest.mark.slow
def test_pip_is_run_in_this_environment(tmp_path: Path) -> None:
    """PyPI's apex, really installed into an environment, is really uninstalled.

    What it sees of the environment that tests run in, pip leaves alone: it is not its own.
    """
    before = {dist.name for dist in importlib.metadata.distributions()}
    place = tmp_path / "env"
    venv.create(place, with_pip=True)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
    lines = [path for path in sys.path if path and Path(path).is_dir()]
    (site / "ours.pth").write_text("\n".join([*lines, *_roots()]))
    wheel = tmp_path / "apex-0.9.10.dev0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        info = "apex-0.9.10.dev0.dist-info"
        file.writestr("apex/__init__.py", "")
        file.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: apex\nVersion: 0.9.10.dev0\n"
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"apex/__init__.py,,\n{info}/RECORD,,\n")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", "--no-index", "--no-deps", wheel], check=True)
    stub = distribution(tmp_path / "stub", "torch", "", torch="")
    command = [python, "-m", "accel", "doctor", "--fix", "--yes", "--env-file", tmp_path / "e.sh"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **stub, "ACCEL_PROBE": "0", "PIP_NO_INDEX": "1"},
        timeout=240,
    )
    assert "[apex-of-pypi]" in done.stdout, done.stderr
    assert "pip uninstall -y apex" in done.stderr
    assert not list(site.glob("apex*"))
    assert "[apex-of-pypi]" not in done.stderr  # the second look
    assert {dist.name for dist in importlib.metadata.distributions()} == before


def _roots() -> list[str]:
    import accel as package

    root = Path(package.__file__).parents[1]
    return [str(root), str(root / "plugins"), str(root / "kernels")]
