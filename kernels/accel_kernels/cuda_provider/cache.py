"""Compiled kernels on disk: one private file each, believed only if its digest is right.

The folder's and the files' privacy, locks and notes are those of accel's own cache. What cannot be
kept on disk stays in this process's memory, and a Note says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from accel.caching import DiskCache, default_folder
from accel.values import Level, Note

MAGIC = b"accel-kernel/1\n"
DIGEST_BYTES = hashlib.sha256().digest_size
LOCK_SECONDS = 60.0
MOST_FILES = 512


class KernelCache(DiskCache):
    """Binaries by key, in `folder`; see DiskCache for what makes a folder private."""

    def __init__(self, folder: Path, tell: Callable[[Note], None] = lambda note: None) -> None:
        super().__init__(folder, tell)
        self._kept: dict[str, bytes] = {}

    def peek(self, key: str) -> bytes | None:
        """The binary of `key` if memory or disk holds it."""
        name = file_name(key)
        found = self._kept.get(name) or self._find(name, key)
        if found is not None:
            self._kept[name] = found
        return found

    def get(self, key: str, build: Callable[[], bytes]) -> bytes:
        """The binary of `key`, from memory, from disk, or else built and kept.

        Of several processes that ask at once one builds and the others read, unless it takes more
        than LOCK_SECONDS. Whatever `build` raises passes through.
        """
        found = self.peek(key)
        if found is None:
            found = self._kept[file_name(key)] = self._make(file_name(key), key, build)
        return found

    def _make(self, name: str, key: str, build: Callable[[], bytes]) -> bytes:
        with self.lock(lock_name(name), LOCK_SECONDS):
            found = self._find(name, key)
            if found is None:
                found = build()
                self._keep(name, key, found)
        return found

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.kernel"

    def _find(self, name: str, key: str) -> bytes | None:
        """What is on disk for `key`, if it is private, whole and for this very key."""
        if not self._folder_is_private():
            return None
        raw = self._read(self._path(name))
        if not raw:
            return None
        start = len(MAGIC) + DIGEST_BYTES
        if raw[: len(MAGIC)] == MAGIC and raw[len(MAGIC) : start] == _digest(key, raw[start:]):
            return raw[start:]
        message = f"{self._path(name)} is damaged or not of this program, and is built again"
        self._note(message, f"rm {self._path(name)}", Level.INFO)
        return None

    def _keep(self, name: str, key: str, binary: bytes) -> None:
        if not self._make_folder():
            return
        temporary = ""
        try:
            file, temporary = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".tmp")
            with open(file, "wb") as stream:
                stream.write(MAGIC + _digest(key, binary) + binary)
            os.replace(temporary, self._path(name))
            self._drop_oldest()
        except OSError as error:
            if temporary:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            self._note(
                f"{self.folder} cannot be written: {error.strerror}; compiled kernels are kept "
                "for this process only",
                "ACCEL_CACHE_DIR=<a folder of your own>",
            )

    def _drop_oldest(self) -> None:
        """Binaries of old versions of the kernels must not pile up."""
        files = sorted(self.folder.glob("*.kernel"), key=lambda path: path.stat().st_mtime)
        for path in files[:-MOST_FILES]:
            path.unlink(missing_ok=True)


def folder() -> Path:
    """Where this user's compiled kernels are kept."""
    return default_folder(os.environ.get) / "kernels"


def file_name(key: str) -> str:
    """What the file of `key` is called, without its suffix."""
    return hashlib.sha256(key.encode()).hexdigest()[:40]


def lock_name(name: str) -> str:
    """The lock for a file: few, for they stay; several, for kernels compile side by side."""
    return f"kernels-{name[0]}"


def _digest(key: str, binary: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + binary).digest()
