"""Where a provider's word about the state of things goes that comes up during a run."""

from __future__ import annotations

import logging

from accel import pipeline
from accel.errors import AccelError
from accel.values import Note


def tell(note: Note) -> None:
    """Into the report where `accel.auto()` is in force, which logs it too; else into the log."""
    try:
        pipeline.current().capabilities.note(note)
    except AccelError:
        logging.getLogger("accel").warning("%s: %s", note.subject, note.message)
