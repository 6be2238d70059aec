"""The probes of libraries' quantised layers: right numbers pass, a missing library is an error."""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import Any

import pytest

from accel.probes.measuring import Refused
from accel_frameworks import quantised

MEASURED = r"forward\+backward, max relative error \d\.\de[-+]\d\d, [\d.]+(e\+\d+)? ms"


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_linear(bits: int) -> None:
    assert re.search(MEASURED, quantised.bitsandbytes_linear("cpu", bits, "bfloat16"))
    with pytest.raises(Refused, match="no layer of 3 bits"):
        quantised.bitsandbytes_linear("cpu", 3)


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
def test_torchao_linear() -> None:
    assert re.search(MEASURED, quantised.torchao_linear("cpu", "Int8WeightOnlyConfig", bits=8))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [("bitsandbytes_linear", {"bits": 4}), ("torchao_linear", {"config": "X"})],
)
def test_a_library_that_is_not_installed_is_an_import_error(
    function: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bitsandbytes", "torchao.quantization"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError):
        getattr(quantised, function)("cpu", **arguments)
