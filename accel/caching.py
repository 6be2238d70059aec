"""A small private cache on disk: JSON files that only their owner can read and write.

It never raises for the state of the disk. What cannot be kept there is kept in this process, and a
Note says so, once. What is found there is believed only where folder and file belong to this user
and nobody else may write to them; what is not as this module writes it is as good as absent.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accel.values import Level, Note

try:
    import fcntl
except (
    ImportError
):  # pragma: no cover - a system without it: processes may then do the same work twice
    fcntl = None  # type: ignore[assignment]

SCHEMA = "accel-cache/1"
MOST_BYTES = 4 * 1024 * 1024
MOST_ENTRIES = 512
LOCK_POLL_SECONDS = 0.05
SUBJECT = "cache"

Entries = dict[str, dict[str, Any]]

_memory: dict[tuple[str, str], Entries] = {}


def default_folder(env: Callable[[str], str | None]) -> Path:
    """`$ACCEL_CACHE_DIR`, else `$XDG_CACHE_HOME/accel`, else `~/.cache/accel`, asked through `env`.

    A user without a home, as containers have them, gets a folder of his own beside temporary files.
    """
    own = env("ACCEL_CACHE_DIR")
    if own:
        return Path(os.path.abspath(os.path.expanduser(own)))
    shared = env("XDG_CACHE_HOME")
    if shared and os.path.isabs(shared):  # the XDG standard has relative ones ignored
        return Path(shared) / "accel"
    home = env("HOME") or os.path.expanduser("~")
    if os.path.isabs(home):
        return Path(home) / ".cache" / "accel"
    return (
        Path(tempfile.gettempdir()) / f"accel-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
    )


class DiskCache:
    """Named files of entries in one folder: `name` -> {key: entry}, an entry being a JSON object.

    `notes` has a line for each thing that kept the cache from working as it should; `tell` hears
    each as it happens.
    """

    def __init__(self, folder: Path, tell: Callable[[Note], None] = lambda note: None) -> None:
        self.folder = folder
        self._notes: list[Note] = []
        self._tell = tell

    @property
    def notes(self) -> tuple[Note, ...]:
        return tuple(self._notes)

    def load(self, name: str) -> Entries:
        """The entries of `name`; empty where there are none or they cannot be believed."""
        entries: Entries = {}
        if self._folder_is_private():
            entries = self._parse(self._read(self.folder / f"{name}.json"))
        return {**entries, **_memory.get(self._slot(name), {})}

    def update(self, name: str, fresh: Mapping[str, Mapping[str, Any]]) -> None:
        """Put `fresh` among the entries of `name`; the oldest go where there are too many."""
        entries = self.load(name)
        for key, entry in fresh.items():
            entries.pop(key, None)
            entries[key] = dict(entry)
        kept = dict(list(entries.items())[-MOST_ENTRIES:])
        if self._make_folder() and self._write(self.folder / f"{name}.json", kept):
            _memory.pop(self._slot(name), None)
        else:
            _memory[self._slot(name)] = kept

    @contextlib.contextmanager
    def lock(
        self, name: str, seconds: float, waiting: Callable[[], None] = lambda: None
    ) -> Iterator[bool]:
        """Hold `name` against other processes; yields whether it is held.

        Waits at most `seconds`, having called `waiting` if there is a wait at all. The lock is let
        go when its process ends, however it ends.
        """
        file = self._open_lock(name)
        try:
            yield file is not None and self._wait_for(file, seconds, waiting)
        finally:
            if file is not None:
                os.close(file)

    def _slot(self, name: str) -> tuple[str, str]:
        return (str(self.folder), name)

    def _note(self, message: str, remedy: str, level: Level = Level.WARNING) -> None:
        note = Note(level=level, subject=SUBJECT, message=message, remedy=remedy, origin="accel")
        if note not in self._notes:
            self._notes.append(note)
            self._tell(note)

    def _folder_is_private(self) -> bool:
        """Whether the folder is there and can be believed; a Note where it is there and cannot."""
        try:
            found = os.stat(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            self._note(f"{self.folder} cannot be used: {error.strerror}", _ELSEWHERE)
            return False
        if not stat.S_ISDIR(found.st_mode):
            self._note(f"{self.folder} is not a folder, so nothing is kept there", _ELSEWHERE)
            return False
        return self._is_own(found, self.folder, "chmod 700")

    def _is_own(self, found: os.stat_result, path: Path, mend: str) -> bool:
        if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
            self._note(f"{path} belongs to another user, so it is not believed", _ELSEWHERE)
            return False
        if os.name == "posix" and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            self._note(f"{path} can be written by others, so it is not believed", f"{mend} {path}")
            return False
        return True

    def _make_folder(self) -> bool:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
        except OSError as error:
            self._note(f"{self.folder} cannot be made: {error.strerror}; {_KEPT}", _ELSEWHERE)
            return False
        return self._folder_is_private()

    def _read(self, path: Path) -> bytes:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            file = os.open(path, flags)
        except FileNotFoundError:
            return b""
        except OSError as error:
            self._note(f"{path} cannot be read: {error.strerror}", f"rm {path}")
            return b""
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or not self._is_own(found, path, "chmod 600"):
                return b""
            return os.read(file, MOST_BYTES + 1)
        except OSError as error:
            self._note(f"{path} cannot be read: {error.strerror}", f"rm {path}")
            return b""
        finally:
            os.close(file)

    def _parse(self, raw: bytes) -> Entries:
        """Entries from a file's bytes; whatever is not as `_write` leaves it is no entry."""
        if not raw or len(raw) > MOST_BYTES:
            return {}
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            return {}
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            return {}
        entries = document.get("entries")
        if not isinstance(entries, dict):
            return {}
        return {key: entry for key, entry in entries.items() if isinstance(entry, dict)}

    def _write(self, path: Path, entries: Entries) -> bool:
        """Whole or not at all: a reader sees the old file or the new one."""
        document = json.dumps({"schema": SCHEMA, "entries": entries}, indent=0)
        temporary = ""
        try:
            file, temporary = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".tmp")
            with open(file, "w", encoding="utf-8") as stream:
                stream.write(document)
            os.replace(temporary, path)
        except OSError as error:
            if temporary:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            self._note(f"{path} cannot be written: {error.strerror}; {_KEPT}", _ELSEWHERE)
            return False
        return True

    def _open_lock(self, name: str) -> int | None:
        if fcntl is None or not self._make_folder():
            return None
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            return os.open(self.folder / f"{name}.lock", flags, 0o600)
        except OSError as error:
            self._note(f"{self.folder} cannot be locked: {error.strerror}; {_KEPT}", _ELSEWHERE)
            return None

    def _wait_for(self, file: int, seconds: float, waiting: Callable[[], None]) -> bool:
        deadline = time.monotonic() + seconds
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    message = f"another process has held {self.folder} for over {seconds:.0f} s"
                    self._note(message, "end it, if it hangs", Level.INFO)
                    return False
                if not told:
                    waiting()
                    told = True
                time.sleep(LOCK_POLL_SECONDS)
            except OSError:  # a network file system without locks: the work may be done twice
                return False
            else:
                return True


_ELSEWHERE = "ACCEL_CACHE_DIR=<a folder of your own>"
_KEPT = "results are kept for this process only"
