"""`accel device-spec`: the file that transformers' own tests take a device from.

    accel device-spec > spec.py
    ACCEL_AUTO=1 TRANSFORMERS_TEST_DEVICE_SPEC=spec.py pytest tests/models/llama

With ACCEL_AUTO=1 transformers is tested with accel's repairs, without it as it is.
transformers imports the file by its name without `.py`, so it has to be in the current folder.
Source: `transformers/testing_utils.py`, at TRANSFORMERS_TEST_DEVICE_SPEC.
"""

from __future__ import annotations

from typing import Annotated

import typer

import accel

TEMPLATE = '''"""{name} ({arch}), for transformers' tests: TRANSFORMERS_TEST_DEVICE_SPEC=spec.py

Written by accel {version}: accel device-spec
"""

import torch

DEVICE_NAME = "{kind}"
_MODULE = torch.get_device_module(DEVICE_NAME)

MANUAL_SEED_FN = torch.manual_seed
EMPTY_CACHE_FN = getattr(_MODULE, "empty_cache", None)
DEVICE_COUNT_FN = {count}
'''


def device_spec(
    device: Annotated[
        str | None,
        typer.Option("--device", help="As torch, a vendor, a family or an architecture has it."),
    ] = None,
) -> None:
    """Write the device for transformers' tests, as TRANSFORMERS_TEST_DEVICE_SPEC wants it."""
    print(spec(device), end="")


def spec(device: str | None = None) -> str:
    """The file's text, for the device that `auto()` would choose, or the one that is named.

    Raises DeviceError where there is none of that name.
    """
    chosen = accel.plan(device, probe=False).device
    # transformers counts accelerators: the host processor is none.
    count = "int" if chosen.kind == "cpu" else "_MODULE.device_count"
    return TEMPLATE.format(
        name=chosen.name.replace('"', "'").replace("\\", ""),
        arch=chosen.arch,
        version=accel.__version__,
        kind=chosen.kind,
        count=count,
    )
