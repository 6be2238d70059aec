from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Workers with as many threads as the machine has cores wait for each other at every operation.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    fair = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, fair)))

# Started in the background by a shell all processes ignore interrupts, which tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A test never asserts a time, and the first example often pays for an import.
settings.register_profile("accel", deadline=None)
settings.load_profile("accel")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the reports in tests/golden anew instead of comparing with them",
    )


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """What a test, or what it calls, sets in the environment is not there for the next one."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)
