"""Boxes with cards of several vendors: each plugin answers for its own and for no other."""

from __future__ import annotations

import pytest

from accel.pipeline import devices
from accel.testing import machine


@pytest.mark.parametrize(
    ("name", "usable", "unusable"),
    [
        ("two-vendors", {("nvidia", "sm_89")}, {("amd", "gfx1100")}),
        ("intel-igpu-and-4090", {("nvidia", "sm_89")}, set()),
    ],
)
def test_each_card_is_found_once_and_torch_serves_one_vendor(
    name: str, usable: set[tuple[str, str]], unusable: set[tuple[str, str]]
) -> None:
    found = [device for device in devices(machine(name)) if device.kind != "cpu"]
    assert len(found) == len(usable) + len(unusable)
    assert {(d.vendor, d.arch) for d in found if d.usable} == usable
    assert {(d.vendor, d.arch) for d in found if not d.usable} == unusable


def test_the_card_that_torch_is_not_built_for_says_what_would_be() -> None:
    (radeon,) = [device for device in devices(machine("two-vendors")) if device.vendor == "amd"]
    assert "ROCm" in (radeon.problem or "")
    assert radeon.remedy
