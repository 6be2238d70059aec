"""Nothing private is in a recording, and what makes the machine is still there."""

from __future__ import annotations

import getpass
import json
import platform
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.machine import Machine, ThisMachine
from accel.recording import SCHEMA, parse, record
from accel.recording.scrubbing import REMOVED, Scrubber, is_private_key

_hexa = "0123456789abcdef"


def _group(size: int) -> st.SearchStrategy[str]:
    return st.text(_hexa, min_size=size, max_size=size)


_uuid = st.tuples(
    st.text("123456789abcdef", min_size=8, max_size=8), _group(4), _group(4), _group(4), _group(12)
).map("-".join)
_mac = st.lists(_group(2), min_size=6, max_size=6).map(":".join)
_ipv4 = st.ip_addresses(v=4).map(str)
_ipv6 = st.ip_addresses(v=6).map(lambda address: address.exploded)
_name = st.text("abcdefghijklmnopqrstuvwxyz", min_size=5, max_size=9).map(lambda text: f"{text}q7x")
_home = _name.flatmap(lambda name: st.sampled_from([f"/home/{name}", f"/Users/{name}"]))
_mail = st.tuples(_name, _name).map(lambda pair: f"{pair[0]}@{pair[1]}.example")
_secret = st.one_of(_uuid, _mac, _ipv4, _ipv6, _home, _mail, _uuid.map(str.upper))
_around = st.sampled_from(["", " ", "\n", "card 0: ", ", ", " (", '"', "\t|", "=", "; "])

PUBLIC = """
+-----------------------------------------------------------------------------+
| card-smi 25.5.1   Version: 25.5.1.2   Firmware Version 7.3.0.1              |
| 0   Model-X2      | OK   | 95.7  46  0 / 0  | 0000:C1:00.0 | 3432 / 65536    |
+-----------------------------------------------------------------------------+
Driver Version: 580.95.05   Bus-Id 0000000F:01:00.0   Part Number : 900-21010-0000-000
at 12:34:56 torchvision::nms ran; git 0123456789abcdef0123456789abcdef01234567
"""


@given(secret=_secret, before=_around, after=_around)
def test_no_secret_stays_in_text(secret: str, before: str, after: str) -> None:
    clean = Scrubber().text(f"{before}{secret}{after}")
    assert secret not in clean


_places = st.recursive(
    st.just("HERE"),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=2)
        | st.dictionaries(
            st.sampled_from(["name", "0", "bdf", "info"]), inner, min_size=1, max_size=2
        )
    ),
    max_leaves=4,
)


@given(secret=_secret, place=_places)
def test_no_secret_stays_at_any_depth(secret: str, place: Any) -> None:
    value = json.loads(json.dumps(place).replace("HERE", f"see {secret}"))
    document = {
        "schema": SCHEMA,
        "queries": {"q": {"value": value}},
        "commands": {"smi": json.dumps(value), f"smi {secret}": "x"},
        "files": {"/proc/x": f"a {secret}\n", f"/opt/{secret}": "x"},
        "env": {"V": f"{secret},1"},
        "paths": [f"/dev/{secret}", "/dev/card0"],
        "distribution_files": {"torch:torch/version.py": f"x = '{secret}'"},
    }
    made = record(parse(document, "box"), _ask(document))
    assert secret not in json.dumps(made)
    assert "/dev/card0" in made["paths"]


def _ask(document: dict[str, Any]) -> Any:
    def ask(box: Machine) -> None:
        box.query("q", lambda: None)
        box.env("V")
        for command in document["commands"]:
            box.command(command.split(" "))
        for path in document["files"]:
            box.read(path)
        box.glob("/dev/*")

    return ask


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=12) | _secret,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["uuid", "serial", "name", "ip"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_scrubbing_twice_is_scrubbing_once(value: Any) -> None:
    once = Scrubber().value(value)
    assert Scrubber().value(once) == once


@given(text=st.text(max_size=80) | st.lists(_secret | _around, max_size=6).map("".join))
def test_scrubbing_text_twice_is_scrubbing_once(text: str) -> None:
    once = Scrubber().text(text)
    assert Scrubber().text(once) == once


def test_what_makes_the_machine_stays() -> None:
    assert Scrubber().text(PUBLIC) == PUBLIC


@given(
    address=st.tuples(_group(4), _group(2), _group(2), st.sampled_from("01234567")).map(
        lambda parts: f"{parts[0]}:{parts[1]}:{parts[2]}.{parts[3]}"
    ),
    before=_around,
    after=_around,
)
def test_pci_addresses_stay(address: str, before: str, after: str) -> None:
    assert address in Scrubber().text(f"{before}{address}{after}")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Serial Number : 1320523012345", f"Serial Number : {REMOVED}"),
        ("GPU[0]\t: Serial Number: 692210", f"GPU[0]\t: Serial Number: {REMOVED}"),
        ("SN=ABC123", f"SN= {REMOVED}"),
        ("Hostname: node17", f"Hostname: {REMOVED}"),
        ("Board Part Number : 900-21010", "Board Part Number : 900-21010"),
        ("<serial>1320523</serial>", "<serial>[removed]</serial>"),
        ("name, serial\nX, 123\nY, 456", f"name, serial\nX, {REMOVED}\nY, {REMOVED}"),
        ("see file:///opt/wheels/x.whl now", f"see {REMOVED} now"),
        ("Linux (builder@lcy02-17) #1", f"Linux ({REMOVED}) #1"),
        ("/root/.cache/x", f"{REMOVED}/.cache/x"),
        (r"C:\Users\alice\x", rf"{REMOVED}\x"),
        ("fe80::1ff:fe23:4567:890a", REMOVED),
        ("GPU-8932f937", f"GPU-{REMOVED}"),
        ("0001:0002:0003:abcd", REMOVED),
        ('{"card0": {"Serial Number": "6922", "Temp": "3"}}', None),
    ],
)
def test_examples(text: str, clean: str | None) -> None:
    made = Scrubber().text(text)
    if clean is None:
        assert json.loads(made) == {"card0": {"Serial Number": REMOVED, "Temp": "3"}}
    else:
        assert made == clean


@pytest.mark.parametrize(
    ("key", "private"),
    [
        ("serial", True),
        ("boardSerialNumber", True),
        ("gpu_uuid", True),
        ("HF_TOKEN", True),
        ("host_name", True),
        ("MASTER_ADDR", True),
        ("user", True),
        ("memory_used", False),
        ("ip_version", False),
        ("bus_id", False),
        ("pci_address", False),
        ("board_part_number", False),
        ("driver_version", False),
        ("macos", False),
        ("name", False),
    ],
)
def test_keys(key: str, private: bool) -> None:
    assert is_private_key(key) is private
    value = Scrubber().value({key: "12ab-x"})
    assert value == {key: REMOVED if private else "12ab-x"}


def test_one_uuid_has_one_stand_in() -> None:
    first, second = "8932f937-d72c-4106-c12f-20bd9faed9f6", "1111f937-d72c-4106-c12f-20bd9faed9f6"
    scrubber = Scrubber()
    cards = scrubber.value([{"uuid": f"GPU-{first}"}, {"uuid": f"GPU-{second}"}])
    chosen = scrubber.text(f"GPU-{second}")
    assert chosen == cards[1]["uuid"] == "GPU-00000000-0000-0000-0000-000000000002"
    assert cards[0] != cards[1]


def test_this_host_and_user_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "secretbox.lab.example")
    monkeypatch.setattr(getpass, "getuser", lambda: "alicia")
    monkeypatch.setenv("PLACE", "run by alicia on secretbox, SecretBox.lab.example or x")

    made = record(ThisMachine(), lambda box: box.env("PLACE"))
    assert made["env"] == {"PLACE": f"run by {REMOVED} on {REMOVED}, {REMOVED} or x"}


def test_a_user_who_is_called_as_a_package_spares_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "pluggy")
    monkeypatch.setenv("PLACE", "pluggy 2")
    assert record(ThisMachine(), lambda box: box.env("PLACE"))["env"] == {"PLACE": "pluggy 2"}


def test_files_that_name_the_host_are_not_kept() -> None:
    document = {
        "schema": SCHEMA,
        "files": {"/etc/hostname": "box17\n", "/sys/class/dmi/id/product_serial": "PF1\n"},
    }
    made = record(parse(document, "box"), lambda box: [box.read(p) for p in document["files"]])
    assert set(made["files"].values()) == {REMOVED}


def test_a_serial_number_in_a_kernels_property_file() -> None:
    text = "simd_count 416\nunique_id 1234567890123456789\nhive_id 99887766\nlocation_id 1024\n"
    assert Scrubber().text(text) == "simd_count 416\nunique_id 0\nhive_id 0\nlocation_id 1024\n"
