from __future__ import annotations

import pytest
from hypothesis import settings

# A test never asserts a time, and the first example often pays for an import.
settings.register_profile("accel", deadline=None)
settings.load_profile("accel")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the reports in tests/golden anew instead of comparing with them",
    )
