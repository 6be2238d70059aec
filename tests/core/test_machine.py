"""This machine's own answers where they are not plain: tools that fail, hang or print oddly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from accel import machine
from accel.machine import ThisMachine


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def test_what_a_tool_prints_in_another_encoding_is_kept_as_far_as_it_can_be_read() -> None:
    source = r"import sys; sys.stdout.buffer.write('card 名\n'.encode('gbk') + b'ok\n')"
    text = ThisMachine().command(python(source))
    assert text is not None
    assert text.startswith("card ")
    assert text.endswith("\nok\n")


def test_a_tool_is_asked_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ask = python(f"open({str(log)!r}, 'a').write('x'); print('said')")
    here = ThisMachine()
    assert [here.command(ask) for _ in range(3)] == ["said\n"] * 3
    assert log.read_text() == "x"
    assert ThisMachine().command(ask) == "said\n"
    assert log.read_text() == "xx"


@pytest.mark.parametrize(
    "argv",
    [["no-such-tool"], python("import sys; print('half'); sys.exit(3)"), ["nul\0byte"]],
    ids=["missing", "fails", "cannot be started"],
)
def test_a_tool_that_does_not_answer_is_none(argv: list[str]) -> None:
    assert ThisMachine().command(argv) is None


def test_a_tool_that_hangs_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "COMMAND_SECONDS", 0.2)
    assert ThisMachine().command(python("import time; time.sleep(60)")) is None
