"""`accel doctor`: each rule finds what it is for, and works where torch does not."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from accel.doctor import Child, Diagnosis, Finding, Patient, children, examine, run_python
from accel.doctor import rules as doctor
from accel.doctor.rules import AUTOLOAD
from accel.machine import Machine
from accel.recording import SCHEMA, parse
from accel.values import Device
from shell import accel, distribution

FINE = Child(True, "")
CARD = Device(vendor="acme", name="Acme X100", kind="acme", arch="ax_9")
LOST = dataclasses.replace(CARD, problem="its driver is missing", remedy="install the driver")


class NoFailures:
    failures = ()

    def info(self, name: str) -> None:
        """No plugin of any name."""


@dataclasses.dataclass
class Runs:
    """Stands in for child processes: answers by a part of the source, and keeps what was run."""

    answers: Mapping[str, Child] = dataclasses.field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = dataclasses.field(default_factory=list)

    def __call__(self, source: str, environment: Mapping[str, str]) -> Child:
        self.asked.append((source, dict(environment)))
        key = f"{source} without" if environment.get(AUTOLOAD) == "0" else source
        return self.answers.get(key, FINE)


def box(**installed: str) -> Machine:
    return parse({"schema": SCHEMA, "distributions": installed}, "box")


def patient(
    machine: Machine | None = None, *devices: Device, runs: Runs | None = None, plugins: Any = None
) -> Patient:
    return Patient(
        machine or box(torch="2.13.0+cpu"), plugins or NoFailures(), devices, runs or Runs()
    )


def found(rule: doctor.Rule, who: Patient) -> list[Finding]:
    return list(rule(who))


def test_torch_missing() -> None:
    (finding,) = found(doctor.torch_missing, patient(box()))
    assert finding.command == "pip install torch"
    assert found(doctor.torch_missing, patient()) == []


def test_torch_missing_takes_the_devices_own_command() -> None:
    card = dataclasses.replace(CARD, problem="no torch", remedy="pip install torch --special")
    (finding,) = found(doctor.torch_missing, patient(box(), card))
    assert finding.command == "pip install torch --special"


def test_torch_that_cannot_be_imported() -> None:
    broken = Child(False, "OSError: libx.so: cannot open")
    runs = Runs({"import torch": broken, "import torch without": broken})
    (finding,) = found(doctor.torch_import, patient(runs=runs))
    assert "OSError: libx.so" in finding.evidence
    assert finding.command == "pip install --force-reinstall torch==2.13.0"


@pytest.mark.parametrize(
    ("brought", "command"),
    [
        (["torch-acme"], "pip uninstall -y torch-acme"),
        (["torch-acme", "torch-b"], f"export {AUTOLOAD}=0"),
        ([], f"export {AUTOLOAD}=0"),
    ],
)
def test_a_backend_that_breaks_torch_is_named(
    brought: list[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_backend_distributions", lambda: brought)
    runs = Runs({"import torch": Child(False, "ImportError: libacme.so")})
    (finding,) = found(doctor.torch_import, patient(runs=runs))
    assert finding.command == command
    assert all(name in finding.evidence for name in brought)
    assert ("import torch", {AUTOLOAD: "0"}) in runs.asked


def test_no_child_is_started_where_torch_is_missing() -> None:
    runs = Runs()
    assert found(doctor.torch_import, patient(box(), runs=runs)) == []
    assert found(doctor.companions, patient(box(), runs=runs)) == []
    assert runs.asked == []


def test_devices_that_torch_cannot_use_are_counted() -> None:
    more = dataclasses.replace(LOST, index=1)
    other = dataclasses.replace(CARD, name="Host")
    (finding,) = found(doctor.devices, patient(None, LOST, more, other))
    assert finding.subject == "2 x Acme X100"
    assert (finding.evidence, finding.command) == ("its driver is missing", "install the driver")


def test_no_device_at_all() -> None:
    (finding,) = found(doctor.devices, patient())
    assert finding.command == "accel plugins"


def test_a_companion_built_for_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"torchaudio": "torchaudio", "torchvision": "torchvision"}
    monkeypatch.setattr(doctor, "_companions", lambda: both)
    runs = Runs({"import torch, torchvision": Child(False, "RuntimeError: operator is missing")})
    (finding,) = found(doctor.companions, patient(runs=runs))
    assert [source for source, _ in runs.asked] == [
        *("import torch", "import torch, torchaudio", "import torch, torchvision")
    ]
    assert finding.subject == "import torchvision"
    assert "RuntimeError: operator is missing" in finding.evidence
    assert finding.command == "pip uninstall -y torchvision"
    assert finding.severity == "warning"


def test_a_bridge_that_only_torch_may_import_is_not_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PyTorch's own OpenReg: imported first, it is found half-made by torch's import in it."""
    (tmp_path / "torch_halfway.py").write_text("import torch\n\ndef load():\n    pass\n")
    distribution(tmp_path, "torch-halfway", "[torch.backends]\nhalfway = torch_halfway:load\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_companions", lambda: {"torch-halfway": "torch_halfway"})
    assert not run_python("import torch_halfway", {}).ok
    assert found(doctor.companions, patient(runs=run_python)) == []  # type: ignore[arg-type]


def test_what_a_plugin_explains_or_nobody_imports_is_not_said_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = {"torch-acme": "torch_acme", "torchvision": "torchvision"}
    monkeypatch.setattr(doctor, "_companions", lambda: both)
    monkeypatch.setattr(doctor, "_backend_distributions", lambda: ["torch-acme"])
    runs = Runs({f"import torch, {module}": Child(False, "x") for module in both.values()})
    known = Finding(id="k", severity="error", subject="torchvision 0.28", evidence="e", command="c")
    off = parse({"schema": SCHEMA, "distributions": {"torch": "2"}, "env": {AUTOLOAD: "0"}}, "box")
    for machine, explained, left in (
        (box(torch="2"), (), ["torch_acme", "torchvision"]),
        (box(torch="2"), (known,), ["torch_acme"]),
        (off, (), ["torchvision"]),
        (off, (known,), []),
    ):
        who = Patient(machine, NoFailures(), (), runs, explained)  # type: ignore[arg-type]
        subjects = [each.subject for each in doctor.companions(who)]
        assert subjects == [f"import {module}" for module in left]


def test_a_backend_that_its_plugin_explains_is_mended_as_the_plugin_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "_backend_distributions", lambda: ["torch-acme"])
    runs = Runs({"import torch": Child(False, "ImportError: libacme.so.")})
    known = Finding(
        id="k", severity="warning", subject="torch-acme 1.0", evidence="e", command="export A=b"
    )
    who = Patient(box(torch="2"), NoFailures(), (), runs, (known,))  # type: ignore[arg-type]
    (finding,) = doctor.torch_import(who)
    assert finding.command == "export A=b"
    assert "libacme.so. It works" in finding.evidence


def test_companions_are_not_blamed_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_companions", lambda: {"torchvision": "torchvision"})
    failing = Child(False, "x")
    both = ("import torch", "import torch without")
    all_of_them = (*both, "import torch, torchvision", "import torch, torchvision without")
    runs = Runs(dict.fromkeys(all_of_them, failing))
    assert found(doctor.companions, patient(runs=runs)) == []


def test_companions_are_tried_without_the_backend_that_breaks_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = {"torch-acme": "torch_acme", "torchvision": "torchvision"}
    monkeypatch.setattr(doctor, "_companions", lambda: both)
    monkeypatch.setattr(doctor, "_backend_distributions", lambda: ["torch-acme"])
    failing = Child(False, "x")
    runs = Runs({"import torch": failing, "import torch, torchvision without": failing})
    (finding,) = found(doctor.companions, patient(runs=runs))
    assert finding.subject == "import torchvision"
    assert runs.asked[-1] == ("import torch, torchvision", {AUTOLOAD: "0"})


def test_companions_are_those_with_compiled_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = {
        "torch-vision": "torchvision/_C.so,,\ntorchvision/__init__.py,,\n",
        "torchpure": "torchpure/__init__.py,,\n",
        "torch": "torch/_C.so,,\n",
        "other": "other/_C.so,,\n",
    }
    for name, files in wheels.items():
        distribution(tmp_path, name, "")
        (tmp_path / f"{name.replace('-', '_')}-0.1.dist-info" / "RECORD").write_text(files)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert doctor._companions() == {"torch-vision": "torchvision"}


@pytest.mark.skipif(os.name != "posix", reason="about POSIX permissions")
def test_a_cache_that_others_can_write(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    machine = parse({"schema": SCHEMA, "env": {"ACCEL_CACHE_DIR": str(folder)}}, "box")
    assert found(doctor.cache, patient(machine)) == []
    folder.mkdir(mode=0o700)
    assert found(doctor.cache, patient(machine)) == []
    folder.chmod(0o777)
    (finding,) = found(doctor.cache, patient(machine))
    assert finding.command == f"chmod 700 {folder}"


def test_a_broken_plugin_is_a_finding() -> None:
    @dataclasses.dataclass
    class Failing:
        failures: tuple[Any, ...]

    from accel.values import Level, Note

    note = Note(
        level=Level.ERROR,
        subject="plugin bad",
        message="raised OSError",
        remedy="pip uninstall accel-bad",
        origin="accel-bad 0.3",
    )
    (finding,) = found(doctor.plugins, patient(plugins=Failing((note,))))
    assert finding.subject == "plugin bad (from accel-bad 0.3)"
    assert finding.command == "pip uninstall accel-bad"


def test_a_rule_that_fails_hides_no_other() -> None:
    def broken(who: Patient) -> list[Finding]:
        raise RuntimeError("oh")

    diagnosis = examine(box(), [broken, doctor.torch_missing])
    assert [finding.id for finding in diagnosis.findings] == ["rule-broken", "torch-missing"]
    assert "RuntimeError: oh" in diagnosis.findings[0].evidence


def test_a_recorded_machine_is_spared_the_rules_that_need_this_one() -> None:
    diagnosis = examine(box(torch="2.13.0"))
    assert diagnosis.unexamined == ("torch_import", "companions", "cache")
    assert "not examined on a recording: torch_import" in str(diagnosis)


def test_healthy_and_not() -> None:
    assert Diagnosis("box", (), ()).healthy
    assert str(Diagnosis("box", (), ())) == "box: nothing is wrong"
    finding = Finding(id="r", severity="warning", subject="s", evidence="e", command="c")
    diagnosis = Diagnosis("box", (finding,), ())
    assert not diagnosis.healthy
    assert str(diagnosis) == "warning  s: e  [r]\n         try:   c"
    body = json.loads(json.dumps(diagnosis.to_json()))
    assert body["schema"] == "accel-doctor/1"
    assert body["healthy"] is False
    assert body["findings"][0]["command"] == "c"


def test_children_are_timed_and_their_last_line_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_python("pass", {}) == Child(True, "")
    assert run_python("1/0", {}) == Child(False, "ZeroDivisionError: division by zero")
    assert run_python("import os, signal; os.kill(os.getpid(), 9)", {}).last == "killed by signal 9"
    assert run_python("import os; assert os.environ['A'] == 'b'", {"A": "b"}).ok
    monkeypatch.setenv("ACCEL_AUTO", "1")
    assert run_python("import os; assert 'ACCEL_AUTO' not in os.environ", {}).ok
    monkeypatch.setattr(children, "SECONDS", 0.3)
    assert "did not end within" in run_python("import time; time.sleep(9)", {}).last


# The command ----------------------------------------------------------------------------------

BROKEN_TORCH = "raise OSError('libacme.so: cannot open shared object file')"


def test_the_command_works_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    env = distribution(tmp_path, "torch", "", torch=BROKEN_TORCH)
    done = accel("doctor", "--json", env=env)
    body = json.loads(done.stdout)
    assert done.returncode == 1
    ids = {finding["id"]: finding for finding in body["findings"]}
    assert "libacme.so" in ids["torch-broken"]["evidence"]
    assert "companion-broken" not in ids
    assert "Traceback" not in done.stderr


def test_the_command_names_the_backend_that_breaks_torch(tmp_path: Path) -> None:
    source = """
        import os
        if os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD") != "0":
            raise RuntimeError("Failed to load the backend extension: torch_acme")
    """
    distribution(tmp_path, "torch", "", torch=source)
    env = distribution(tmp_path, "torch-acme", "")
    info = tmp_path / "torch_acme-0.1.dist-info" / "entry_points.txt"
    info.write_text("[torch.backends]\nacme = torch_acme:load\n")
    body = json.loads(accel("doctor", "--json", env=env).stdout)
    (finding,) = [each for each in body["findings"] if each["id"] == "torch-backend-broken"]
    assert "there is one in: torch-acme" in finding["evidence"]
    assert finding["command"] == "pip uninstall -y torch-acme"


def test_the_command_on_a_recording(tmp_path: Path) -> None:
    file = tmp_path / "box.json"
    file.write_text(json.dumps({"schema": SCHEMA, "platform": {"system": "Linux"}}))
    done = accel("doctor", "--machine", file)
    assert done.returncode == 1
    assert "torch: is not installed" in done.stdout
    assert "not examined on a recording" in done.stdout


def test_examining_imports_no_torch() -> None:
    source = (
        "import sys; from accel.doctor import examine; from accel.machine import ThisMachine;"
        "examine(ThisMachine()); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", source], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
