"""The `accel` command, mostly as a user starts it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from accel.cli import main
from accel.cli.app import invoke
from accel.cli.listing import plain_form
from accel.cli.output import progress, write_whole
from accel.errors import InputError
from accel.recording import SCHEMA, parse
from accel.testing import machines
from shell import accel, distribution, environment

BOX = {"schema": SCHEMA, "platform": {"system": "Linux", "arch": "x86_64", "python": "3.11.0"}}


# Commands that show ---------------------------------------------------------------------------


def test_devices() -> None:
    done = accel("devices")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == [
        *("device", "name", "vendor", "arch", "memory", "driver", "torch")
    ]
    assert any(line.startswith("cpu ") for line in done.stdout.splitlines())


def test_devices_as_json() -> None:
    body = json.loads(accel("devices", "--json").stdout)
    assert body["schema"] == "accel-devices/1"
    assert body["machine"] == "this machine"
    assert body["devices"][-1]["torch"] == "cpu"
    assert body["devices"][-1]["usable"] is True


@pytest.mark.parametrize(
    ("arguments", "plain"),
    [
        (["devices"], True),
        (["devices", "--json"], True),
        (["devices", "--machine", "NAME"], True),
        (["devices", "--machine", "NAME", "--json"], True),
        (["devices", "--json", "--machine", "NAME"], True),
        (["devices", "--machine=NAME"], False),
        (["devices", "--help"], False),
        (["devices", "--machine"], False),
        (["devices", "--machine", "--json"], False),
        (["devices", "x"], False),
        (["explain"], False),
        (["--debug", "devices"], False),
    ],
)
def test_plain_forms_of_devices_are_as_with_typer(
    arguments: list[str], plain: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [machines()[0] if text == "NAME" else text for text in arguments]
    listing = plain_form(arguments)
    assert (listing is not None) is plain
    if listing is not None:
        listing()
        quick = capsys.readouterr()
        assert invoke(arguments) == 0
        assert capsys.readouterr() == quick


def test_the_command_imports_no_torch_and_no_typer() -> None:
    source = """
        import sys
        from accel.cli import main
        code = main(["devices"])
        found = {"torch", "rich", "transformers", "typer", "pydantic"} & set(sys.modules)
        sys.exit(f"imported {found}" if found else code)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("form", "starts"),
    [("text", ""), ("markdown", "## "), ("html", '<div class="accel-report">'), ("json", "{")],
)
def test_explain_in_every_form(form: str, starts: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--no-probe", "--device", "cpu", "--format", form]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(starts)
    assert "float32" in shown
    assert "\033" not in shown


def test_explain_as_json_has_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--no-probe", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "accel-report/1"


@pytest.mark.parametrize("name", machines())
def test_explain_a_recorded_machine(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--machine", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machine"] == name
    code = main(["explain", "--machine", name])
    shown = capsys.readouterr()
    usable = any(device["usable"] for device in found["devices"])
    assert code == (0 if usable else 1), shown.err
    if usable:
        assert f"{name}; recorded: decisions are declared and installed; nothing was" in shown.out


def test_plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEL_PROBE", "0")
    assert main(["plan", "--attention", "eager"]) == 0
    assert "attention   eager" in capsys.readouterr().out
    assert main(["plan", "--attention", "eager", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["schema"], body["attention"]) == ("accel-plan/1", "eager")


def test_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    assert "accel_cpu" in capsys.readouterr().out
    assert main(["plugins", "--json"]) == 0
    named = {plugin["name"] for plugin in json.loads(capsys.readouterr().out)["plugins"]}
    assert "cpu" in named


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "accel 0.1.0\n"
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == shown


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("devices", "explain", "plan", "plugins", "record", "doctor", "run"):
        assert f"\n  {command} " in shown
        assert main([command, "--help"]) == 0


# Recording ------------------------------------------------------------------------------------


def test_record_to_a_file_and_explain_it(tmp_path: Path) -> None:
    file = tmp_path / "box.json"
    done = accel("record", "--output", file)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["box.json"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~_umask()
    assert done.stdout == ""
    explained = accel("explain", "--machine", file)
    assert explained.returncode == 0, explained.stderr
    assert "box; recorded" in explained.stdout


def _umask() -> int:
    now = os.umask(0o022)
    os.umask(now)
    return now


def test_record_to_stdout_is_a_recording(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record"]) == 0
    box = parse(json.loads(capsys.readouterr().out), "stdout")
    assert box.cpu().count == os.cpu_count()


def test_a_recording_explains_as_the_machine_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "box.json"
    assert main(["record", "-o", str(file)]) == 0
    assert main(["explain", "--no-probe", "--json"]) == 0
    here = json.loads(capsys.readouterr().out)
    assert main(["explain", "--machine", str(file), "--json"]) == 0
    there = json.loads(capsys.readouterr().out)
    for key in ("device", "devices", "chosen", "decisions", "patches"):
        assert here[key] == there[key], key


def test_a_recorded_machine_can_be_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    name = machines()[0]
    assert main(["record", "--machine", name]) == 0
    again = parse(json.loads(capsys.readouterr().out), "again")
    assert again.pci() or again.distributions()


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    file.write_text("old")
    write_whole(file, "new")
    assert file.read_text() == "new"
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(file, "\ud800")
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["out.json"]


# Bad input ------------------------------------------------------------------------------------

BAD = [
    (["explain", "--device", "no-such-card"], "accel devices"),
    (["explain", "--machine", "no-such-box"], "accel record"),
    (["explain", "--machine", "missing.json"], "accel record"),
    (["explain", "--machine", "cut.json"], "ends too early"),
    (["explain", "--machine", "binary.json"], "not UTF-8"),
    (["devices", "--machine", "wrong.json"], "pci[0].vendor"),
    (["doctor", "--machine", "cut.json"], "ends too early"),
    (["record", "--machine", "cut.json"], "ends too early"),
    (["plan", "--attention", "flash_attention_9"], "cannot be had"),
    (["explain", "--format", "pdf"], "text, markdown, html, json"),
    (["explain", "--format", "html", "--json"], "--json"),
    (["record", "--output", "no/such/folder/box.json"], "cannot be written"),
    (["run", "missing.py"], "missing.py"),
    (["run", "folder"], "__main__.py"),
    (["run", "-m", "no_such_module"], "no_such_module"),
    (["run"], "SCRIPT"),
    (["run", "--device", "no-such-card", "fine.py"], "accel devices"),
    (["run", "--attention", "flash_attention_9", "fine.py"], "cannot be had"),
    (["devices", "--no-such-option"], "--no-such-option"),
    (["no-such-command"], "no-such-command"),
    (["devices", "surplus"], "surplus"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=lambda value: " ".join(value)[:40])
def test_bad_input(arguments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text(json.dumps(BOX)[:-5])
    (tmp_path / "binary.json").write_bytes(b"\x00\xff\xfe")
    card = {"address": "0000:01:00.0", "vendor": "zz", "device": "0001", "class_id": "030000"}
    (tmp_path / "wrong.json").write_text(json.dumps({**BOX, "pci": [card]}))
    (tmp_path / "fine.py").write_text("open('ran', 'w')")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))

    done = accel(*arguments, cwd=tmp_path)

    assert done.returncode == (1 if said == "cannot be had" else 2), done.stderr
    assert done.stdout == "" or json.loads(done.stdout)["schema"] == "accel-error/1"
    assert said in done.stderr
    assert "try:" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_debug_shows_the_traceback() -> None:
    done = accel("--debug", "explain", "--device", "no-such-card")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_an_error_nobody_expected_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Any:
        raise RuntimeError("split\nin two")

    monkeypatch.setattr("accel.pipeline.plugins", fail)
    assert main(["plugins"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("accel: RuntimeError: split in two\n")
    assert "accel --debug plugins" in said
    assert main(["--debug", "plugins"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "accel", "explain", "--no-probe"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONUNBUFFERED="1"),
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 1


def test_progress_speaks_after_a_while_and_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import logging
    import threading

    monkeypatch.setattr("accel.cli.output.PATIENCE", 0.05)
    before = threading.active_count()
    with progress("thinking"):
        time.sleep(0.08)
        logging.getLogger("accel").info("probing x")
        time.sleep(0.12)
    said = capsys.readouterr().err
    assert "thinking" in said
    assert "probing x" in said
    assert threading.active_count() == before
    with progress("quick"):
        pass
    assert capsys.readouterr().err == ""


# Plugins' commands ----------------------------------------------------------------------------

GOOD = """
    import accel

    @accel.hookimpl
    def accel_commands(app):
        @app.command()
        def greet(name: str):
            print(f"hello {name}")
            return 7
"""
RAISES = """
    import accel

    @accel.hookimpl
    def accel_commands(app):
        raise OSError("no such luck")
"""
UNBUILDABLE = """
    import accel

    @accel.hookimpl
    def accel_commands(app):
        @app.command()
        def odd(thing: "NoSuchType"): ...
"""
TAKEN = """
    import accel

    @accel.hookimpl
    def accel_commands(app):
        @app.command()
        def devices(): print("mine")
"""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (RAISES, "no such luck"),
        (UNBUILDABLE, "cannot be built"),
        (TAKEN, "is there already: devices"),
        ("import no_such_thing", "no_such_thing"),
        ("raise SystemExit(3)", "sys.exit"),
    ],
    ids=["raises", "unbuildable", "taken", "import", "exit"],
)
def test_a_broken_plugins_commands_spoil_nothing(source: str, said: str, tmp_path: Path) -> None:
    env = distribution(
        tmp_path, "accel-tests", "a_bad = bad_p\nb_good = good_p", bad_p=source, good_p=GOOD
    )
    done = accel("greet", "you", env=env)
    assert done.stdout == "hello you\n"
    assert done.returncode == 7
    assert said in done.stderr
    assert "accel-tests 0.1" in done.stderr
    assert "Traceback" not in done.stderr
    assert accel("devices", env=env).returncode == 0


def test_own_commands_load_no_commands_of_plugins(tmp_path: Path) -> None:
    env = distribution(tmp_path, "accel-tests", "bad = bad_p", bad_p=RAISES)
    assert "no such luck" not in accel("devices", env=env).stderr
    assert "no such luck" in accel("--help", env=env).stderr
    assert "no such luck" not in accel("--version", env=env).stderr
