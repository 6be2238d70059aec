"""Recorded machines: strict reading, faithful replay, nothing private."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from accel.errors import InputError
from accel.machine import Cpu, Machine, Memory, Pci, Platform, ThisMachine
from accel.recording import (
    DEEPEST,
    LARGEST,
    SCHEMA,
    RecordedMachine,
    load,
    parse,
    parse_text,
    record,
)
from accel.testing import machine, machine_files, machines

BOX: dict[str, Any] = {
    "schema": SCHEMA,
    "title": "a box",
    "kind": "composed",
    "sources": {"pci": "made up"},
    "platform": {"system": "Linux", "arch": "aarch64", "python": "3.12.3"},
    "env": {"VISIBLE": "0,1"},
    "memory": {"total": 64 << 30, "available": None},
    "cpu": {"model": "Some Core", "flags": ["asimd", "bf16"], "count": 20},
    "pci": [
        {"address": "000f:01:00.0", "vendor": "1234", "device": "2e12", "class_id": "120000"},
        {
            "address": "0000:c1:00.0",
            "vendor": "1234",
            "device": "0001",
            "class_id": "030200",
            "driver": "drv",
        },
    ],
    "paths": ["/dev/card0", "/dev/card1", "/dev/.hidden", "/opt/kit/v1/lib.so"],
    "files": {"/proc/driver/card/version": "version 1.2.3\n"},
    "queries": {"cards": {"value": [{"name": "x"}]}, "broken": {"error": "OSError: no"}},
    "commands": {"card-smi info": "all fine\n"},
    "distributions": {"torch": "2.13.0", "Some_Thing": "1"},
    "distribution_files": {"torch:torch/version.py": "cuda = None\n"},
}


def never() -> Any:
    raise AssertionError("a recorded machine asked a vendor's library")


# Replay ---------------------------------------------------------------------------------------


def test_everything_recorded_is_answered() -> None:
    box = parse(BOX, "somewhere/box.json")
    assert (box.name, box.title, box.kind, box.is_here) == ("box", "a box", "composed", False)
    assert box.env("VISIBLE") == "0,1"
    assert box.read("/proc/driver/card/version") == "version 1.2.3\n"
    assert box.cpu() == Cpu("Some Core", frozenset({"asimd", "bf16"}), 20)
    assert box.memory() == Memory(64 << 30, None)
    assert box.platform() == Platform("Linux", "aarch64", "3.12.3")
    assert [card.address for card in box.pci()] == ["0000:c1:00.0", "000f:01:00.0"]
    assert box.pci()[1] == Pci("000f:01:00.0", "1234", "2e12", "120000", None)
    assert box.query("cards", never).value == [{"name": "x"}]
    assert box.query("broken", never).error == "OSError: no"
    assert box.command(["card-smi", "info"]) == "all fine\n"
    assert box.version("some.thing") == "1"
    assert box.distributions() == {"some-thing": "1", "torch": "2.13.0"}
    assert box.distribution_file("Torch", "torch/version.py") == "cuda = None\n"


def test_what_is_not_recorded_is_absent() -> None:
    empty = parse({"schema": SCHEMA}, "empty")
    assert empty.env("HOME") is None
    assert empty.read("/proc/meminfo") is None
    assert empty.glob("/*") == ()
    assert not empty.exists("/")
    assert empty.pci() == ()
    assert empty.memory() == Memory(None, None)
    assert empty.version("torch") is None
    assert empty.distribution_file("torch", "torch/version.py") is None
    assert not empty.query("cards", never).ok
    assert empty.command(["true"]) is None


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("/dev/card*", ("/dev/card0", "/dev/card1")),
        ("/dev/card?", ("/dev/card0", "/dev/card1")),
        ("/dev/card[1-9]", ("/dev/card1",)),
        ("/dev/card[!1]", ("/dev/card0",)),
        ("/dev/*", ("/dev/card0", "/dev/card1")),
        ("/dev/.*", ("/dev/.hidden",)),
        ("/opt/*", ("/opt/kit",)),
        ("/opt/*/lib.so", ()),
        ("/opt/*/*/lib.so", ("/opt/kit/v1/lib.so",)),
        ("/proc/driver/card/version", ("/proc/driver/card/version",)),
        ("/dev/card", ()),
        ("card0", ()),
    ],
)
def test_glob_is_as_on_a_file_system(pattern: str, found: tuple[str, ...]) -> None:
    assert parse(BOX, "box").glob(pattern) == found


_part = st.text(st.sampled_from("ab.*?[]!-\\"), min_size=1, max_size=6).filter(
    lambda part: part not in {".", ".."}
)


@given(pattern=_part, names=st.lists(_part, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_glob_agrees_with_the_real_one(
    tmp_path_factory: pytest.TempPathFactory, pattern: str, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("glob")
    for name in names:
        (folder / name).touch()
    recorded = parse({"schema": SCHEMA, "paths": [f"{folder}/{name}" for name in names]}, "box")
    assert recorded.glob(f"{folder}/{pattern}") == ThisMachine().glob(f"{folder}/{pattern}")


@pytest.mark.parametrize("path", ["/dev/card0", "/dev", "/proc/driver/card/version", "/opt/kit"])
def test_exists(path: str) -> None:
    assert parse(BOX, "box").exists(path)
    assert not parse(BOX, "box").exists(path + "x")


# Strict reading -------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"schema": "accel-machine/2"}, "schema"),
    ({"cards": []}, "'cards'"),
    ({"paht": []}, "did you mean path"),
    ({"title": 3}, "title"),
    ({"kind": "invented"}, "kind"),
    ({"cpu": {"model": "x", "count": 0}}, "cpu.count"),
    ({"cpu": {"count": True}}, "cpu.count"),
    ({"cpu": {"flags": "avx"}}, "cpu.flags"),
    ({"memory": {"total": -1}}, "memory.total"),
    ({"memory": {"total": 1.5}}, "memory.total"),
    ({"pci": {}}, "pci"),
    ({"pci": [{"address": "0000:01:00.0"}]}, "pci[0]"),
    ({"pci": [{**BOX["pci"][0], "vendor": "0x1234"}]}, "pci[0].vendor"),
    ({"pci": [{**BOX["pci"][0], "class_id": "0302"}]}, "pci[0].class_id"),
    ({"pci": [{**BOX["pci"][0], "address": "01:00.0"}]}, "pci[0].address"),
    ({"pci": [{**BOX["pci"][0], "slot": 1}]}, "'slot'"),
    ({"paths": ["dev/card0"]}, "paths[0]"),
    ({"files": {"relative": "text"}}, "files"),
    ({"files": {"/x": None}}, "files./x"),
    ({"queries": {"cards": {}}}, "queries.cards"),
    ({"queries": {"cards": {"value": 1, "error": "x"}}}, "queries.cards"),
    ({"queries": {"cards": {"error": None}}}, "queries.cards.error"),
    ({"commands": {"smi": ["a"]}}, "commands.smi"),
    ({"env": {"": "x"}}, "env"),
    ({"distributions": {"torch": None}}, "distributions.torch"),
    ({"distribution_files": {"torch": "x"}}, "distribution_files"),
    ({"platform": {"system": None}}, "platform.system"),
    ({"title": "\ud800"}, "title"),
]


@pytest.mark.parametrize(("change", "place"), WRONG)
def test_a_mistake_is_named_by_file_and_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(InputError) as caught:
        parse({**BOX, **change}, "folder/box.json")
    text = str(caught.value)
    assert "folder/box.json" in text
    assert place in text
    assert "accel record" in caught.value.remedy


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "ends too early"),
        (json.dumps(BOX).encode()[:-40], "ends too early"),
        (b"{not json", "line 1 column 2"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8"),
        (b"[]", "an object"),
        (b"null", "an object"),
        (b"12", "an object"),
        (b'{"schema": "x", "schema": "y"}', "twice"),
        (b"[" * 100_000, "too deeply"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "schema"),
        (b"1" * 5000, "needed there"),
        (b" " * (LARGEST + 1), "16 MB"),
    ],
)
def test_bytes_that_are_no_recording(raw: bytes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_text(raw, "box.json")
    assert said in str(caught.value)
    assert "box.json" in str(caught.value)


def test_a_deep_answer_is_refused() -> None:
    value: Any = 1
    for _ in range(DEEPEST + 1):
        value = [value]
    with pytest.raises(InputError, match="nested too deeply"):
        parse({**BOX, "queries": {"cards": {"value": value}}}, "box")


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert parse_text(b"\xef\xbb\xbf" + json.dumps(BOX).encode(), "box.json").name == "box"


@pytest.mark.parametrize("path", ["/no/such/folder/box.json", "/dev", "bad\0name"])
def test_a_file_that_cannot_be_read(path: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load(path)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
_documents = st.fixed_dictionaries(
    {"schema": st.just(SCHEMA)}, optional={key: _json for key in BOX if key != "schema"}
)


def ask_all(box: Machine) -> None:
    """Ask a machine everything; nothing may raise."""
    box.env("VISIBLE"), box.read("/proc/driver/card/version"), box.glob("/dev/card*")
    box.pci(), box.cpu(), box.memory(), box.platform(), box.distributions(), box.version("torch")
    box.distribution_file("torch", "torch/version.py"), box.command(["card-smi", "info"])
    box.query("cards", lambda: None), box.query("broken", lambda: None)


@given(document=_json | _documents)
@example({**BOX, "queries": {"x": {"value": float("nan")}}})
def test_any_json_is_a_machine_or_an_input_error(document: Any) -> None:
    try:
        box = parse(document, "box.json")
    except InputError as error:
        refused = str(error)
    else:
        ask_all(box)
        refused = "box.json"
    assert "box.json" in refused


@given(raw=st.binary(max_size=200) | _documents.map(lambda d: json.dumps(d).encode()))
def test_any_bytes_are_a_machine_or_an_input_error(raw: bytes) -> None:
    with contextlib.suppress(InputError):
        ask_all(parse_text(raw, "box.json"))


@given(cut=st.integers(min_value=0, max_value=len(json.dumps(BOX)) - 1))
def test_no_truncated_recording_is_taken(cut: int) -> None:
    with pytest.raises(InputError):
        parse_text(json.dumps(BOX).encode()[:cut], "box.json")


# Recording ------------------------------------------------------------------------------------


def test_record_parse_record_is_the_same() -> None:
    once = record(parse(BOX, "box"), ask_all)
    again = record(parse(json.loads(json.dumps(once)), "box"), ask_all)
    assert once == again
    for key in ("env", "pci", "cpu", "memory", "queries", "commands", "distribution_files"):
        assert once[key], key
    assert once["paths"] == ["/dev/card0", "/dev/card1"]
    assert once["sources"] == BOX["sources"]


def test_only_what_was_asked_is_recorded() -> None:
    made = record(parse(BOX, "box"), lambda box: None)
    assert made["env"] == made["files"] == made["queries"] == made["commands"] == {}
    assert made["paths"] == []
    assert made["distribution_files"] == BOX["distribution_files"]
    assert made["distributions"] == {"some-thing": "1", "torch": "2.13.0"}


def test_a_choice_for_one_run_is_no_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEL_ATTENTION", "eager")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("VISIBLE", "0")

    def ask(here: Machine) -> None:
        assert here.env("ACCEL_ATTENTION") == "eager"
        here.env("LOCAL_RANK"), here.env("VISIBLE")

    assert record(ThisMachine(), ask)["env"] == {"VISIBLE": "0"}


def test_this_machine_can_be_recorded_and_replayed() -> None:
    here = ThisMachine()
    document = record(here, lambda box: box.exists("/proc/cpuinfo"))
    box = parse(json.loads(json.dumps(document)), "here")
    assert box.pci() == here.pci()
    assert box.cpu() == here.cpu()
    assert box.platform() == here.platform()
    assert box.distributions() == here.distributions()
    assert document["kind"] == "reading"


def test_a_query_that_failed_is_recorded_as_failed() -> None:
    def ask(box: Machine) -> None:
        box.query("bad", lambda: 1 // 0)
        box.query("data", lambda: dataclasses.make_dataclass("D", ["x"])(x=(1, 2)))

    document = record(ThisMachine(), ask)
    assert document["queries"]["bad"] == {"error": "ZeroDivisionError: division by zero"} or (
        "ZeroDivisionError" in document["queries"]["bad"]["error"]
    )
    assert document["queries"]["data"] == {"value": {"x": [1, 2]}}


# Machines that come with plugins --------------------------------------------------------------


def test_every_machine_that_is_listed_can_be_loaded() -> None:
    for name in machines():
        box = machine(name)
        assert isinstance(box, RecordedMachine)
        assert box.name == name
        assert box.title
        assert set(machine_files()[name].stem) <= set(string.ascii_lowercase + string.digits + "-_")


def test_a_machine_by_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(BOX))
    assert machine(file).name == machine(str(file)).name == "mine"


def test_an_unknown_machine_is_an_error_with_the_names_that_are_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_box.json").write_text(json.dumps(BOX))
    monkeypatch.setattr("accel.testing._folders", lambda: [tmp_path])
    with pytest.raises(InputError) as caught:
        machine("some-box")
    assert "did you mean 'some_box'?" in str(caught.value)


def test_two_machines_of_one_name_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "box.json").write_text(json.dumps(BOX))
    monkeypatch.setattr("accel.testing._folders", lambda: folders)
    with pytest.raises(InputError, match="two recorded machines are called box"):
        machines()
