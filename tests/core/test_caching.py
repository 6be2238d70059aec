"""The cache on disk: private, whole or absent, and never in the way."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel import caching
from accel.caching import DiskCache, default_folder
from accel.values import Level

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
ENTRY = {"k": {"v": 1}}


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "_memory", {})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({"ACCEL_CACHE_DIR": "/a/b", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/a/b"),
        ({"ACCEL_CACHE_DIR": "", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/accel"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/accel"),
        ({"HOME": "/h"}, "/h/.cache/accel"),
    ],
)
def test_the_default_folder(env: dict[str, str], folder: str) -> None:
    assert default_folder(env.get) == Path(folder)


def test_a_relative_folder_of_ones_own_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_folder({"ACCEL_CACHE_DIR": "here"}.get) == tmp_path / "here"


def test_a_user_without_a_home_gets_a_folder_and_not_one_called_tilde(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert default_folder({}.get) == Path(tempfile.gettempdir()) / f"accel-{os.getuid()}"


def test_entries_come_back_and_only_the_owner_can_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    old = os.umask(0)
    try:
        DiskCache(folder).update("name", ENTRY)
        with DiskCache(folder).lock("name", 1):
            assert mode(folder / "name.lock") == 0o600
    finally:
        os.umask(old)
    cache = DiskCache(folder)
    assert cache.load("name") == ENTRY
    assert cache.load("other") == {}
    assert cache.notes == ()
    assert mode(folder) == 0o700
    assert mode(folder / "name.json") == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["name.json", "name.lock"]


def test_entries_of_others_are_kept_and_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "MOST_ENTRIES", 3)
    for key in "abacd":
        DiskCache(tmp_path).update("name", {key: {}})
    assert list(DiskCache(tmp_path).load("name")) == ["a", "c", "d"]


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_to_is_not_believed(tmp_path: Path, bits: int) -> None:
    folder = tmp_path / "cache"
    DiskCache(folder).update("name", ENTRY)
    folder.chmod(bits)
    cache = DiskCache(folder)
    assert cache.load("name") == {}
    assert cache.load("name") == {}
    (note,) = cache.notes
    assert note.level is Level.WARNING
    assert note.remedy == f"chmod 700 {folder}"
    cache.update("name", {"new": {}})
    folder.chmod(0o700)
    assert json.loads((folder / "name.json").read_text())["entries"] == ENTRY  # nor written to
    assert cache.load("name") == {"new": {}, **ENTRY}  # but this process remembers


def test_a_file_that_others_can_write_to_is_not_believed_and_is_replaced(tmp_path: Path) -> None:
    DiskCache(tmp_path).update("name", ENTRY)
    file = tmp_path / "name.json"
    file.chmod(0o622)
    cache = DiskCache(tmp_path)
    assert cache.load("name") == {}
    assert cache.notes[0].remedy == f"chmod 600 {file}"
    cache.update("name", {"new": {}})
    assert mode(file) == 0o600
    assert DiskCache(tmp_path).load("name") == {"new": {}}


def test_what_belongs_to_another_user_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DiskCache(tmp_path).update("name", ENTRY)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    cache = DiskCache(tmp_path)
    assert cache.load("name") == {}
    assert "belongs to another user" in cache.notes[0].message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_in_ones_own_folder_is_not_believed(tmp_path: Path) -> None:
    DiskCache(tmp_path).update("name", ENTRY)
    os.chown(tmp_path / "name.json", 12345, 12345)
    assert DiskCache(tmp_path).load("name") == {}
    os.chown(tmp_path, 12345, 12345)
    cache = DiskCache(tmp_path)
    cache.update("name", {"new": {}})
    assert "belongs to another user" in cache.notes[0].message
    assert (tmp_path / "name.json").stat().st_uid == 12345


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    DiskCache(tmp_path).update("elsewhere", ENTRY)
    (tmp_path / "name.json").symlink_to(elsewhere)
    cache = DiskCache(tmp_path)
    assert cache.load("name") == {}
    cache.update("name", {"new": {}})
    assert not (tmp_path / "name.json").is_symlink()
    assert DiskCache(tmp_path).load("elsewhere") == ENTRY


def test_a_pipe_or_a_folder_in_the_files_place_stops_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "name.json")
    assert DiskCache(tmp_path).load("name") == {}
    DiskCache(tmp_path).update("name", ENTRY)
    assert DiskCache(tmp_path).load("name") == ENTRY
    (tmp_path / "other.json").mkdir()
    cache = DiskCache(tmp_path)
    cache.update("other", ENTRY)
    assert cache.load("other") == ENTRY
    assert cache.notes


@pytest.mark.parametrize("place", ["replace", "mkstemp", "write"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_cannot_be_written_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    DiskCache(tmp_path).update("name", ENTRY)

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    def opened(*arguments: Any, **options: Any) -> Any:
        stream = open(*arguments, **options)  # noqa: SIM115 - the caller closes it
        stream.write = fail
        return stream

    cache = DiskCache(tmp_path)
    with monkeypatch.context() as patched:
        if place == "write":
            patched.setattr(caching, "open", opened, raising=False)
        else:
            patched.setattr(os if place == "replace" else tempfile, place, fail)
        cache.update("name", {"new": {}})
    assert any(os.strerror(number) in note.message for note in cache.notes)
    assert json.loads((tmp_path / "name.json").read_text())["entries"] == ENTRY
    assert [path.name for path in tmp_path.iterdir()] == ["name.json"]
    assert DiskCache(tmp_path).load("name")["new"] == {}  # for this process only
    cache.update("later", {"x": {}})
    assert DiskCache(tmp_path).load("later") == {"x": {}}


def test_a_folder_that_cannot_be_made_is_noted_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = DiskCache(tmp_path / "file" / "cache")
    cache.update("name", ENTRY)
    cache.update("name", ENTRY)
    with cache.lock("name", 1) as held:
        assert not held
    assert cache.load("name") == ENTRY
    assert len([note for note in cache.notes if "cannot be made" in note.message]) == 1


def test_a_lock_is_held_by_one_and_let_go(tmp_path: Path) -> None:
    waited: list[int] = []
    with DiskCache(tmp_path).lock("name", 1) as first:
        with DiskCache(tmp_path).lock("name", 0.2, lambda: waited.append(1)) as second:
            assert (first, second) == (True, False)
        with DiskCache(tmp_path).lock("other", 0.2) as third:
            assert third
    assert waited == [1]
    with DiskCache(tmp_path).lock("name", 0.2, lambda: waited.append(2)) as fourth:
        assert fourth
    assert waited == [1]


@pytest.mark.parametrize("error", [None, OSError(errno.ENOLCK, "no locks available")])
def test_a_system_without_locks_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    if error is None:
        monkeypatch.setattr(caching, "fcntl", None)
    else:

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(caching.fcntl, "flock", fail)
    with DiskCache(tmp_path).lock("name", 5) as held:
        assert not held


def test_a_reader_sees_an_old_file_or_a_new_one_never_half(tmp_path: Path) -> None:
    sizes = [1, 2000]
    entries = [{"k": {"v": "x" * size}} for size in sizes]
    DiskCache(tmp_path).update("name", entries[0])
    done = threading.Event()

    def write() -> None:
        for turn in range(200):
            DiskCache(tmp_path).update("name", entries[turn % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not done.is_set():
        assert DiskCache(tmp_path).load("name") in entries
        seen += 1
    writer.join()
    assert seen > 10


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(raw=st.binary(max_size=200) | st.sampled_from([b"[" * 100_000, b"9" * 10_000, b"NaN"]))
def test_any_bytes_are_no_entries_and_are_replaced(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "name.json"
    file.write_bytes(raw)
    file.chmod(0o600)
    cache = DiskCache(tmp_path)
    assert cache.load("name") == {}
    cache.update("name", ENTRY)
    assert DiskCache(tmp_path).load("name") == ENTRY
    assert cache.notes == ()


def test_a_huge_file_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DiskCache(tmp_path).update("name", ENTRY)
    monkeypatch.setattr(caching, "MOST_BYTES", 10)
    assert DiskCache(tmp_path).load("name") == {}
