"""The `accel` command with bad input: errors for people, an exit code, and nothing half done."""

from __future__ import annotations

import json
import os
import shlex
import stat
import types
from pathlib import Path

import pytest

from accel.cli import main, output, running
from accel.cli.output import colored, print_json, write_whole
from accel.errors import InputError
from accel.recording import SCHEMA
from accel.testing import machines

BOX = {"schema": SCHEMA, "platform": {"system": "Linux", "arch": "x86_64", "python": "3.11.0"}}


@pytest.fixture(autouse=True)
def _nothing_printed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of its own."""
    monkeypatch.setattr(output._Printed, "json", False)


def remedy(capsys: pytest.CaptureFixture[str]) -> str:
    """The one command that the error says to try."""
    lines = capsys.readouterr().err.splitlines()
    [said] = [line.partition("try:")[2].strip() for line in lines if "  try:" in line]
    return said


def test_advice_on_a_recorded_machine_is_about_that_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my box.json"
    file.write_text(json.dumps(BOX))
    for spec in ("h100", str(file)):
        assert main(["explain", "--machine", spec, "--device", "no-such-card"]) == 2
        advice = shlex.split(remedy(capsys))
        assert advice == ["accel", "devices", "--machine", spec]
        assert main(advice[1:]) == 0
        capsys.readouterr()
    assert main(["explain", "--no-probe", "--device", "no-such-card"]) == 2
    assert remedy(capsys) == "accel devices"


@pytest.mark.parametrize(
    ("arguments", "near", "lists"),
    [
        (["devices", "--machine", "h10"], "'h100'", "accel record --list"),
        (["explain", "--machine", "H10"], "'h100'", "accel record --list"),
        (["plan", "--machine", "h10"], "'h100'", "accel record --list"),
        (["doctor", "--machine", "h10"], "'h100'", "accel record --list"),
        (["record", "--machine", "h10"], "'h100'", "accel record --list"),
        (["simulate", "mlu59", "--", "python"], "'mlu590'", "accel simulate"),
        (["conformance", "hoper"], "'hopper'", "accel plugins"),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_an_unknown_name_is_told_what_is_near_and_where_the_list_is(
    arguments: list[str], near: str, lists: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"; did you mean {near}?\n" in said
    meant = near.strip("'")
    arguments = ["?" if text.lower() in ("h10", "mlu59", "hoper") else text for text in arguments]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "did you mean" not in said
    assert said.splitlines()[-1] == f"  try:   {lists}"
    assert max(map(len, said.splitlines())) < 100
    assert main(shlex.split(lists)[1:]) == 0
    assert meant in capsys.readouterr().out


def test_the_list_of_recorded_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "--list", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["schema"] == "accel-machines/1"
    assert [each["name"] for each in body["machines"]] == list(machines())
    assert {each["kind"] for each in body["machines"]} == {"reading", "composed"}
    assert main(["record", "--list", "--output", "x.json"]) == 2
    assert "--list with --output" in capsys.readouterr().err


# JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "code"),
    [
        (["devices", "--json", "--machine", "no-such-box"], "InputError", 2),
        (["devices", "--no-such-option", "--json"], "InputError", 2),
        (["devices", "surplus", "--json"], "InputError", 2),
        (["explain", "--json", "--no-probe", "--device", "no-such-card"], "UnknownDevice", 2),
        (["explain", "--format", "--json"], "InputError", 2),
        (["plan", "--machine", "h100", "--dtype", "x", "--json"], "CapabilityUnavailable", 1),
        (["doctor", "--json", "--yes"], "InputError", 2),
        (["conformance", "--json", "no-such-plugin"], "InputError", 2),
        (["matrix", "--json", "--results", "no-such-folder"], "InputError", 2),
        (["record", "--json", "--list", "--output", "x"], "InputError", 2),
        (["simulate", "--fault", "lost:1", "--json", "no-such-box"], "InputError", 2),
        (["lint", "no-such-folder", "--json"], "InputError", 2),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_an_error_is_json_too_where_json_was_asked_for(
    arguments: list[str], error: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    shown = capsys.readouterr()
    body = json.loads(shown.out)
    assert (body["schema"], body["error"]) == ("accel-error/1", error)
    assert f"accel: {body['wanted']}\n" in shown.err
    assert f"  try:   {body['remedy']}\n" in shown.err
    assert (body["found"] in shown.err, bool(body["reasons"])) == (True, code == 1)


def test_an_error_nobody_expected_is_json_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr("accel.pipeline.plugins", fail)
    assert main(["plugins", "--json"]) == 1
    body = json.loads(capsys.readouterr().out)
    assert (body["error"], body["wanted"]) == ("RuntimeError", "no such luck")
    assert body["remedy"] == "accel --debug plugins --json"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "missing.py", "--json"],
        ["simulate", "no-such-box", "--json"],
        ["simulate", "t4", "--", "no-such-command", "--json"],
        ["no-such-command", "--json"],
        ["explain", "--machine", "no-such-box", "--", "--json"],
    ],
    ids=" ".join,
)
def test_json_that_another_command_was_asked_for_is_left_to_it(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().out == ""


def test_what_was_printed_before_an_error_stays_the_only_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def some(*arguments: object, **options: object) -> None:
        print_json({"schema": "mine"})
        raise InputError("and then it failed")

    monkeypatch.setattr("accel.cli.mending.doctor", some)
    assert main(["doctor", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"schema": "mine"}


# Files ----------------------------------------------------------------------------------------


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe, link, file = tmp_path / "pipe", tmp_path / "link.json", tmp_path / "real.json"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode)
    file.write_text("old")
    link.symlink_to(file.name)
    write_whole(link, "new")
    assert (link.is_symlink(), file.read_text()) == (True, "new")
    assert sorted(os.listdir(tmp_path)) == ["link.json", "pipe", "real.json"]


@pytest.mark.parametrize("name", ["", ".", "folder", "no/such/folder/x", "folder/x/y", "a\0b"])
def test_a_file_that_cannot_be_written_is_an_input_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            write_whole(Path(name), "text")
    finally:
        os.chdir(before)
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize(
    ("variables", "colors"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colors_are_for_terminals_that_want_them(
    variables: dict[str, str], colors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert colored(types.SimpleNamespace(isatty=lambda: True)) is colors
    assert not colored(types.SimpleNamespace(isatty=lambda: False))


# Scripts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "found", "remedy"),
    [
        ("", "no such file", "accel run PATH/TO/SCRIPT.py"),
        ("binary.py", "a binary file", "file binary.py"),
        ("a\0b", "no such file", "accel run PATH/TO/SCRIPT.py"),
        ("json.tool", "no such file", "accel run -m json.tool"),
        ("x" * 300, "File name too long", f"ls -ld '{'x' * 300}'"),
        ("fine.py/x", "no such file", "accel run PATH/TO/SCRIPT.py"),
    ],
    ids=["empty", "binary", "null", "module", "long", "below a file"],
)
def test_what_is_no_script_is_refused_before_anything_is_patched(
    script: str, found: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "_patched", lambda *arguments: pytest.fail("patched"))
    Path("fine.py").write_text("")
    Path("binary.py").write_bytes(b"\x7fELF\0\0")
    with pytest.raises(InputError) as caught:
        running.run(script)
    assert (caught.value.found, caught.value.remedy) == (found, remedy)


def test_a_machine_without_a_word_on_its_processor_has_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bare.json"
    file.write_text(json.dumps({"schema": SCHEMA}))
    assert main(["explain", "--machine", str(file)]) == 0
    assert capsys.readouterr().out.startswith("unknown processor (unknown) as cpu\n")
