"""Compiled kernels on disk: damaged, foreign, concurrent and impossible to keep."""

from __future__ import annotations

import multiprocessing
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from accel.values import Note
from accel_kernels.cuda_provider import cache as module
from accel_kernels.cuda_provider.cache import KernelCache

BINARY = b"\x7fELF" + bytes(range(256)) * 40


class Builder:
    """Counts how often it is asked."""

    def __init__(self, binary: bytes = BINARY) -> None:
        self.binary = binary
        self.built = 0

    def __call__(self) -> bytes:
        self.built += 1
        return self.binary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "kernels"


def the_file(folder: Path) -> Path:
    (found,) = folder.glob("*.kernel")
    return found


def test_a_second_process_reads_what_the_first_built(folder: Path) -> None:
    build = Builder()
    assert KernelCache(folder).get("key", build) == BINARY
    fresh = KernelCache(folder)
    assert fresh.get("key", build) == BINARY
    assert fresh.peek("key") == BINARY
    assert fresh.peek("another key") is None
    assert build.built == 1
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(the_file(folder).stat().st_mode) == 0o600
    assert fresh.notes == ()


def flip(raw: bytes) -> bytes:
    return raw[:-7] + bytes([raw[-7] ^ 1]) + raw[-6:]


@pytest.mark.parametrize(
    "damage",
    [flip, lambda raw: raw[: len(raw) // 2], lambda raw: raw[:10], lambda raw: BINARY],
    ids=["one bit", "half of it", "its head", "a bare binary"],
)
def test_a_damaged_file_is_built_again(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    build = Builder()
    KernelCache(folder).get("key", build)
    path = the_file(folder)
    path.write_bytes(damage(path.read_bytes()))
    again = KernelCache(folder)
    assert again.get("key", build) == BINARY
    assert build.built == 2
    assert any("built again" in note.message for note in again.notes)
    assert KernelCache(folder).get("key", build) == BINARY
    assert build.built == 2


def test_another_keys_binary_under_this_name_is_not_taken(folder: Path) -> None:
    first, second = Builder(b"first"), Builder(b"second")
    KernelCache(folder).get("first", first)
    intruder = the_file(folder)
    KernelCache(folder).get("second", second)
    (other,) = set(folder.glob("*.kernel")) - {intruder}
    intruder.write_bytes(other.read_bytes())
    assert KernelCache(folder).get("first", first) == b"first"
    assert first.built == 2


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_others_may_write_is_not_believed(folder: Path, which: str) -> None:
    build = Builder()
    KernelCache(folder).get("key", build)
    target = the_file(folder) if which == "file" else folder
    target.chmod(0o777)
    again = KernelCache(folder)
    assert again.get("key", build) == BINARY
    assert build.built == 2
    assert any("can be written by others" in note.message for note in again.notes)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners as POSIX has them")
def test_what_belongs_to_another_user_is_not_believed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Builder()
    KernelCache(folder).get("key", build)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    again = KernelCache(folder)
    assert again.get("key", build) == BINARY
    assert build.built == 2
    assert any("belongs to another user" in note.message for note in again.notes)


def test_a_link_to_elsewhere_is_not_followed(folder: Path, tmp_path: Path) -> None:
    build = Builder()
    KernelCache(folder).get("key", build)
    path = the_file(folder)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert KernelCache(folder).get("key", build) == BINARY
    assert build.built == 2


def refuse_to_write(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_memory_and_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.tempfile, "mkstemp", refuse_to_write)
    told: list[Note] = []
    build = Builder()
    kept = KernelCache(folder, told.append)
    assert [kept.get("key", build) for _ in range(3)] == [BINARY] * 3
    assert build.built == 1
    assert [note for note in told if "No space left" in note.message]
    assert len(told) == len(kept.notes)


def test_a_file_in_the_folders_place_leaves_memory_and_a_line(tmp_path: Path) -> None:
    (tmp_path / "kernels").write_text("in the way")
    build = Builder()
    kept = KernelCache(tmp_path / "kernels")
    assert [kept.get("key", build) for _ in range(2)] == [BINARY] * 2
    assert build.built == 1
    assert kept.notes


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_leaves_memory_and_a_line(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    folder.chmod(0o500)
    build = Builder()
    kept = KernelCache(folder)
    assert [kept.get("key", build) for _ in range(2)] == [BINARY] * 2
    assert build.built == 1
    assert any("cannot be" in note.message for note in kept.notes)


def test_an_interrupted_write_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "replace", refuse_to_write)
    KernelCache(folder).get("key", Builder())
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == []


def compete(folder: Path, log: Path, start: float) -> None:
    def build() -> bytes:
        with open(log, "a", encoding="utf-8") as stream:
            stream.write("built\n")
        time.sleep(0.3)
        return BINARY

    time.sleep(max(0.0, start - time.time()))
    assert KernelCache(folder).get("key", build) == BINARY


def test_processes_that_compile_at_once_build_once(folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    log = tmp_path / "log"
    start = time.time() + 0.5
    racers = [context.Process(target=compete, args=(folder, log, start)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * 4
    assert log.read_text().splitlines() == ["built"]
    assert not list(folder.glob("*.tmp"))


def test_a_hanging_process_holds_nobody_up_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.2)
    with KernelCache(folder).lock(module.lock_name(module.file_name("key")), 1.0) as held:
        assert held
        build = Builder()
        assert KernelCache(folder).get("key", build) == BINARY
    assert build.built == 1


def test_old_binaries_do_not_pile_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 3)
    kept = KernelCache(folder)
    for index in range(6):
        kept.get(f"key {index}", Builder())
        os.utime(the_newest(folder), (index, index))
    assert len(list(folder.glob("*.kernel"))) == 3
    build = Builder()
    KernelCache(folder).get("key 5", build)
    assert build.built == 0


def the_newest(folder: Path) -> Path:
    return max(folder.glob("*.kernel"), key=lambda path: path.stat().st_mtime)


def test_an_error_while_building_passes_through_and_is_not_kept(folder: Path) -> None:
    def fail() -> bytes:
        raise ValueError("no compiler")

    kept = KernelCache(folder)
    with pytest.raises(ValueError, match="no compiler"):
        kept.get("key", fail)
    build = Builder()
    assert kept.get("key", build) == BINARY
    assert build.built == 1
