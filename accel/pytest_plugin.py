"""`pytest --accel-plugin=NAME`: the conformance suite as tests, one for each rule.

pytest loads this wherever accel is installed, so without the option it does nothing and imports
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

OPTION = "--accel-plugin"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option, and nothing else."""
    group = parser.getgroup("accel", "conformance of accelerator plugins")
    group.addoption(
        OPTION,
        action="append",
        default=[],
        metavar="NAME",
        help="run accel's conformance suite on this installed plugin, as often as wanted",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Bring in the tests where the option is given."""
    names = config.getoption("accel_plugin", [])
    if names:
        from accel.testing.conformance.items import Collector

        config.pluginmanager.register(Collector(names), "accel-conformance")
