"""What is installed, read off folders, against importlib.metadata."""

from __future__ import annotations

import email
import importlib.metadata
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name

from accel.distributions import Installed, canonical
from accel.machine import ThisMachine


def install(folder: Path, name: str, version: str, entries: str = "", kind: str = "dist") -> Path:
    stem = name.replace("-", "_")
    made = folder / f"{stem}-{version}.{kind}-info"
    made.mkdir(parents=True)
    file = "METADATA" if kind == "dist" else "PKG-INFO"
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not this\n"
    (made / file).write_text(text)
    if entries:
        (made / "entry_points.txt").write_text(entries)
    return made


def test_here_it_says_what_importlib_metadata_says() -> None:
    installed = Installed()
    assert installed.plain
    for one in importlib.metadata.distributions():
        name = one.metadata["Name"]
        if name:
            first = importlib.metadata.distribution(name)
            assert installed.version(name) == first.version, name
    expected = importlib.metadata.entry_points(group="accel")
    found = installed.entry_points("accel")
    assert sorted((e.name, e.value) for e in found) == sorted((e.name, e.value) for e in expected)
    assert {(e.distribution, e.version) for e in found} == {
        (canonical(e.dist.name), e.dist.version) for e in expected if e.dist
    }
    assert {e.name: e.load() for e in found} == {e.name: e.load() for e in expected}


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,12}[A-Za-z0-9])?", fullmatch=True))
def test_names_are_spelt_as_pep_503_has_it(name: str) -> None:
    assert canonical(name) == canonicalize_name(name)


def test_what_changes_is_seen_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert ThisMachine().version("some-thing") is None
    made = install(tmp_path, "some-thing", "1.0", "[accel]\none = os:path\n")
    assert ThisMachine().version("Some.Thing") == "1.0"
    (made / "METADATA").write_text("Name: some-thing\nVersion: 2.0\n")
    assert ThisMachine().version("some_thing") == "2.0"
    (made / "entry_points.txt").write_text(
        "[other]\nx = y\n[accel]\n# no\ntwo = os:path.join [x]\n"
    )
    (entry,) = [e for e in Installed().entry_points("accel") if e.distribution == "some-thing"]
    assert (entry.name, entry.version, entry.load()) == ("two", "2.0", os.path.join)


def test_the_first_on_the_path_counts(tmp_path: Path) -> None:
    install(tmp_path / "a", "thing", "1.0", "[accel]\na = a\n")
    install(tmp_path / "b", "thing", "2.0", "[accel]\nb = b\n")
    old = install(tmp_path / "b", "old-thing", "3.0", kind="egg")
    lone = tmp_path / "b" / "lone-4.0.egg-info"
    lone.write_text("Name: lone\nVersion: 4.0\n")
    installed = Installed([str(tmp_path / name) for name in ("nowhere", "a", "b", "a")])
    assert installed.version("thing") == "1.0"
    assert [e.name for e in installed.entry_points("accel")] == ["a"]
    assert installed.version("old-thing") == "3.0"
    assert installed.version("lone") == "4.0"
    assert installed.file("old-thing", "x/y.txt") == str(old.parent / "x/y.txt")


def test_metadata_that_cannot_be_read_is_no_version(tmp_path: Path) -> None:
    (tmp_path / "empty-1.0.dist-info").mkdir()
    half = install(tmp_path, "half", "1.0")
    (half / "METADATA").write_text("Name: half\n")
    installed = Installed([str(tmp_path)])
    assert installed.version("empty") is None
    assert installed.version("half") is None
    assert installed.file("absent", "x") is None


LINES = (
    *("[accel]", " [accel] ", "[other]", "[accel.more]", "", "# a comment", "  # indented"),
    *(
        "a = b",
        "a=b:c",
        "  c = d:e.f  ",
        "g = h [extra]",
        "i = j [k,l]",
        "m.n = o # p",
        "q = r = s",
    ),
)


@given(st.lists(st.sampled_from(LINES), max_size=9), st.sampled_from(["\n", "\r\n"]))
def test_any_entry_points_are_read_as_importlib_metadata_reads_them(
    lines: list[str], end: str
) -> None:
    """Under some section: of what stands before the first, importlib.metadata makes none either."""
    with tempfile.TemporaryDirectory() as folder:
        text = end.join(["[first]", *lines])
        made = install(Path(folder), "thing", "1.0")
        (made / "entry_points.txt").write_bytes(text.encode())
        found = [(e.name, e.value) for e in Installed([folder]).entry_points("accel")]
        (theirs,) = importlib.metadata.distributions(path=[folder])
        assert found == [(e.name, e.value) for e in theirs.entry_points if e.group == "accel"]


HEADERS = (
    *("Metadata-Version: 2.1", "Name: thing", "name: other", "Version: 1.0", "VERSION: 2"),
    *("Summary: Version: 9", "", "Name: in the prose", "Version: 9.9"),
)


@given(st.lists(st.sampled_from(HEADERS), max_size=7))
def test_any_headers_are_read_as_importlib_metadata_reads_them(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = install(Path(folder), "thing", "1.0")
        (made / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
        theirs = email.message_from_string((made / "METADATA").read_text())
        assert Installed([folder]).version("thing") == theirs["Version"]


def test_where_folders_are_not_all_importlib_metadata_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped-5.0.dist-info/METADATA", "Name: zipped\nVersion: 5.0\n")
        file.writestr("zipped-5.0.dist-info/entry_points.txt", "[accel]\nzipped = os:path\n")
    monkeypatch.syspath_prepend(str(archive))
    installed = Installed()
    assert not installed.plain
    assert installed.version("zipped") == "5.0"
    assert installed.version("absent") is None
    assert installed.file("absent", "x") is None
    (entry,) = [e for e in installed.entry_points("accel") if e.name == "zipped"]
    assert (entry.distribution, entry.version, entry.load()) == ("zipped", "5.0", os.path)


def test_a_finder_of_its_own_is_asked_through_importlib_metadata(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Finder:
        @staticmethod
        def find_spec(*_: object) -> None:
            return None

        @staticmethod
        def find_distributions(*_: object) -> list[importlib.metadata.Distribution]:
            return []

    assert Installed().plain
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    assert not Installed().plain
    assert Installed().version("pytest") == importlib.metadata.version("pytest")
