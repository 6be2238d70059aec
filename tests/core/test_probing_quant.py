"""The probes of quantised weights pass on right ones and refuse wrong ones. On the CPU."""

from __future__ import annotations

import re
from typing import Any

import pytest

from accel import probes
from accel.probes import measuring, quantised
from accel.probes.measuring import Refused

torch = pytest.importorskip("torch")
MEASURED = r"forward\+backward, max relative error \d\.\de[-+]\d\d, [\d.]+(e\+\d+)? ms"


def _measured(said: str) -> None:
    assert re.search(MEASURED, said), said


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group_size", [32, 128, 256])
def test_quant_linear_torch(bits: int, group_size: int) -> None:
    _measured(probes.quant_linear_torch("cpu", bits, group_size))


@pytest.mark.parametrize(("bits", "group_size"), [(3, 64), (4, 100), (4, 0), (4, -1)])
def test_quant_linear_torch_refuses_what_cannot_be_packed(bits: int, group_size: int) -> None:
    with pytest.raises(Refused, match="no packing"):
        probes.quant_linear_torch("cpu", bits, group_size)


def test_quant_linear_torch_refuses_shifts_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    original = quantised._unpack

    def off_by_one(words: Any, *arguments: Any) -> Any:
        return original(words >> 1, *arguments)

    monkeypatch.setattr(quantised, "_unpack", off_by_one)
    with pytest.raises(Refused, match="the result is wrong"):
        probes.quant_linear_torch("cpu", 4, 64)


@pytest.mark.parametrize("bits", [4, 8])
def test_packing_keeps_every_code(bits: int) -> None:
    codes = torch.arange(64 * 8).reshape(64, 8) % 2**bits
    words = quantised._pack(codes, bits)
    assert words.dtype == torch.int32
    assert words.shape == (64 * bits // 32, 8)
    zeros, scales = torch.zeros(1, 8, dtype=torch.int64), torch.ones(1, 8, dtype=torch.float64)
    assert torch.equal(quantised._unpack(words, bits, 64, zeros, scales), codes.double())


class FakeLayer(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A quantised layer as a library might have it; `flaw` scales what it computes."""

    def __init__(self, weight: Any, flaw: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.flaw = flaw

    def forward(self, x: Any) -> Any:
        return x @ self.weight.t() * self.flaw


def test_a_frozen_layer_is_held_to_its_codes_and_its_codes_to_the_weights() -> None:
    true = measuring.numbers((quantised.OUT, quantised.IN), torch.float32, 7)
    good = true * 1.001
    said = quantised.frozen_linear("fake", FakeLayer(good), good, true, 4, torch.float32, "cpu")
    assert said.startswith("fake linear 256x128, weights within 1.0e-03, forward+backward")
    with pytest.raises(Refused, match="the result is wrong"):
        quantised.frozen_linear("fake", FakeLayer(good, 1.1), good, true, 4, torch.float32, "cpu")
    with pytest.raises(Refused, match="the quantised weight is wrong"):
        quantised.frozen_linear("fake", FakeLayer(-true), -true, true, 4, torch.float32, "cpu")
