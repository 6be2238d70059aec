"""What commands have in common: JSON, tables, progress, files that are whole or not there."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accel.errors import InputError

LOGGER = logging.getLogger("accel")
PATIENCE = 2.0
"""Seconds without a word before a command says what it is doing."""


class _Printed:
    """Whether a document is on stdout already: a second one would make both unreadable."""

    json = False


def print_json(document: Any) -> None:
    """One document on stdout."""
    _Printed.json = True
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_error(error: Exception, remedy: str) -> None:
    """The error as the document, schema `accel-error/1`, where no other one was printed."""
    if _Printed.json:
        return
    body = {
        "error": type(error).__name__,
        "wanted": getattr(error, "wanted", str(error)),
        "found": getattr(error, "found", ""),
        "remedy": remedy,
        "reasons": list(getattr(error, "reasons", ())),
    }
    print_json({"schema": "accel-error/1", **body})


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
    return "\n".join(lines)


def colored(stream: Any) -> bool:
    """Whether colours are welcome: a terminal that has them, and no NO_COLOR (no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return bool(stream.isatty()) and not plain


class _Latest(logging.Handler):
    """Keeps the last line that accel logged, which is what it is doing."""

    line = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.line = record.getMessage()


@contextlib.contextmanager
def progress(doing: str) -> Iterator[None]:
    """While the body takes more than two seconds, say on stderr what it does and for how long.

    Its thread has ended when the body has, so a later fork finds none of it.
    """
    done = threading.Event()
    started = time.monotonic()
    latest = _Latest(logging.INFO)

    def tell() -> None:
        pause = PATIENCE
        while not done.wait(pause):
            now = latest.line or doing
            print(f"accel: {time.monotonic() - started:3.0f} s  {now}", file=sys.stderr)
            pause = min(pause * 1.5, 30.0)

    thread = threading.Thread(target=tell, name="accel-progress", daemon=True)
    level = LOGGER.level
    LOGGER.addHandler(latest)
    LOGGER.setLevel(logging.INFO)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        LOGGER.setLevel(level)
        LOGGER.removeHandler(latest)


@contextlib.contextmanager
def quiet_log() -> Iterator[None]:
    """Nothing that accel logs is printed: the command shows it in the report."""
    LOGGER.propagate, before = False, LOGGER.propagate
    try:
        yield
    finally:
        LOGGER.propagate = before


def write_whole(path: Path, text: str, *, option: str = "--output") -> None:
    """Write a file at once: readers find the old one or the whole new one. InputError if not.

    What is no file (a device, a pipe) is written to as it is, and a link is followed: neither is
    replaced. `option` is what the user named the file by.
    """
    draft: Path | None = None
    try:
        if _is_special(path):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            return
        target = Path(os.path.realpath(path))
        draft = target.with_name(f".{target.name}.{os.getpid()}.part")
        with open(draft, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException as error:
        with contextlib.suppress(OSError, ValueError):
            if draft is not None:
                draft.unlink()
        if not isinstance(error, (OSError, ValueError)):
            raise  # Ctrl-C in the middle of it
        raise InputError(
            f"{path} cannot be written",
            found=getattr(error, "strerror", None) or str(error),
            remedy=f"{option} with a path in a folder that is there and yours",
        ) from None


def _is_special(path: Path) -> bool:
    """Whether something is there that is no regular file; a folder is an error of open()'s."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
