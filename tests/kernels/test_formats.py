"""Every format is read into one layout and written back bit for bit, and nonsense is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_kernels.formats import (
    FormatError,
    QuantizedWeight,
    awq,
    compressed_tensors,
    from_values,
    gptq,
)
from accel_kernels.formats.packing import BITS, pack, run_length, unpack, words_for


def random_weight(
    bits: int, k: int, n: int, group: int, *, act_order: bool = False, low: int = 0, seed: int = 0
) -> QuantizedWeight:
    made = torch.Generator().manual_seed(seed)
    size = k if group == -1 else group
    groups = -(-k // size)
    g_idx = None
    if act_order:
        g_idx = (torch.randperm(k, generator=made) // size).to(torch.int32)
    return from_values(
        torch.randint(0, 1 << bits, (k, n), generator=made),
        torch.randint(low, 1 << bits, (groups, n), generator=made),
        torch.rand(groups, n, generator=made).to(torch.float16) + 0.01,
        bits=bits,
        group_size=group,
        g_idx=g_idx,
    )


def same(a: QuantizedWeight, b: QuantizedWeight) -> bool:
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for field in dataclasses.fields(a)
        for x, y in [(getattr(a, field.name), getattr(b, field.name))]
    )


@given(
    bits=st.sampled_from(BITS),
    count=st.integers(1, 100),
    dim=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_packing_and_unpacking_are_inverse(bits: int, count: int, dim: int, seed: int) -> None:
    torch.manual_seed(seed)
    values = torch.randint(0, 1 << bits, (3, count) if dim else (count, 3), dtype=torch.uint8)
    words = pack(values, bits, dim)
    assert words.shape[dim] == words_for(count, bits)
    assert torch.equal(unpack(words, bits, count, dim), values)


def test_the_order_of_bits_is_the_formats() -> None:
    assert pack(torch.arange(8)[None], 4, 1).item() == 0x76543210
    assert pack(torch.tensor([[3, 0, 0, 0, 255]]), 8, 1).tolist() == [[3, 255]]
    # 3 bits: value 10 straddles the first two words (bits 30, 31 | 0).
    words = pack(torch.tensor([[0] * 10 + [0b101] + [0] * 21]), 3, 1)
    assert [word & 0xFFFFFFFF for word in words.flatten().tolist()] == [1 << 30, 1, 0]


def test_too_few_words_are_refused() -> None:
    with pytest.raises(ValueError, match="hold 8 values of 4 bits, not 9"):
        unpack(torch.zeros(1, 1, dtype=torch.int32), 4, 9, 1)


shapes = st.tuples(
    st.sampled_from([32, 64, 96]), st.sampled_from([8, 32, 64]), st.sampled_from([-1, 16, 32])
)


@settings(deadline=None, max_examples=40)
@given(
    bits=st.sampled_from(BITS),
    shape=shapes,
    act=st.booleans(),
    v1=st.booleans(),
    seed=st.integers(0, 99),
)
def test_gptq_round_trip(
    bits: int, shape: tuple[int, int, int], act: bool, v1: bool, seed: int
) -> None:
    k, n, group = shape
    n = -(-n // run_length(bits)) * run_length(bits)
    weight = random_weight(bits, k, n, group, act_order=act, low=1 if v1 else 0, seed=seed)
    tensors = gptq.write(weight, v1=v1)
    sizes: dict[str, Any] = {"bits": bits, "group_size": group, "in_features": k, "out_features": n}
    again = gptq.read(tensors, **sizes, v1=v1)
    assert same(again, weight)
    rewritten = gptq.write(again, v1=v1)
    assert all(torch.equal(rewritten[key], tensors[key]) for key in tensors)
    made = gptq.empty(**sizes, scales_dtype=torch.float16, device="cpu")
    assert {key: (t.shape, t.dtype) for key, t in made.items()} == {
        key: (t.shape, t.dtype) for key, t in tensors.items()
    }


@settings(deadline=None, max_examples=25)
@given(shape=shapes, seed=st.integers(0, 99))
def test_awq_round_trip(shape: tuple[int, int, int], seed: int) -> None:
    k, n, group = shape
    weight = random_weight(4, k, n, group, seed=seed)
    tensors = awq.write(weight)
    assert same(awq.read(tensors, group_size=group, in_features=k, out_features=n), weight)
    made = awq.empty(
        group_size=group, in_features=k, out_features=n, scales_dtype=torch.float16, device="cpu"
    )
    assert {key: t.shape for key, t in made.items()} == {key: t.shape for key, t in tensors.items()}


@given(rows=st.integers(1, 5), columns=st.integers(1, 5), seed=st.integers(0, 99))
def test_awq_words_are_turned_as_their_values_say(rows: int, columns: int, seed: int) -> None:
    made = torch.Generator().manual_seed(seed)
    words = torch.randint(-(1 << 31), 1 << 31, (8 * rows, columns), generator=made).int()
    turned = awq._turned(words)
    assert torch.equal(turned, pack(awq._columns(words, 8 * columns), 4, 0))
    assert torch.equal(awq._turned_back(turned), words)


@settings(deadline=None, max_examples=25)
@given(
    bits=st.sampled_from([4, 8]),
    shape=shapes,
    act=st.booleans(),
    middle=st.booleans(),
    seed=st.integers(0, 99),
)
def test_compressed_tensors_round_trip(
    bits: int, shape: tuple[int, int, int], act: bool, middle: bool, seed: int
) -> None:
    k, n, group = shape
    weight = random_weight(bits, k, n, group, act_order=act, seed=seed)
    if middle:
        zeros = torch.full((weight.groups, n), 1 << (bits - 1))
        weight = dataclasses.replace(weight, qzeros=pack(zeros, bits, 1))
    tensors = compressed_tensors.write(weight)
    assert ("weight_zero_point" in tensors) is not middle
    assert same(compressed_tensors.read(tensors, bits=bits, group_size=group), weight)


def test_dequantising_is_the_formula() -> None:
    weight = random_weight(4, 32, 8, 16, act_order=True)
    q, z, s, group = (
        weight.values().double(),
        weight.zeros().double(),
        weight.scales.double(),
        weight.group_of(),
    )
    expected = torch.empty(32, 8, dtype=torch.float64)
    for k in range(32):
        for n in range(8):
            expected[k, n] = (q[k, n] - z[group[k], n]) * s[group[k], n]
    assert torch.allclose(weight.dequantize(torch.float64), expected, rtol=1e-6)


def test_v2_zeros_that_call_themselves_v1_are_seen_through_where_sym_tells() -> None:
    zeros = torch.full((2, 8), 8)
    values, scales = torch.randint(0, 16, (32, 8)), torch.rand(2, 8).half()
    weight = from_values(values, zeros, scales, bits=4, group_size=16)
    sizes: dict[str, Any] = {"bits": 4, "group_size": 16, "in_features": 32, "out_features": 8}
    for v1 in (True, False):
        read = gptq.read(gptq.write(weight, v1=v1), **sizes, v1=True, sym=True)
        assert torch.equal(read.zeros(), zeros.to(torch.uint8))


def test_v1_words_that_borrowed_come_back_as_their_writer_meant_them() -> None:
    """GPTQModel subtracts 0x11111111 from whole words: a zero of 0 borrows from its neighbour."""
    weight = random_weight(4, 16, 8, 16)
    words = torch.tensor([[0x76543210 - 0x11111111]], dtype=torch.int32)
    tensors = {**gptq.write(weight, v1=False), "qzeros": words}
    read = gptq.read(tensors, bits=4, group_size=16, in_features=16, out_features=8, v1=True)
    assert read.zeros().tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    with pytest.raises(FormatError, match="gptq_v2"):
        gptq.write(read, v1=True)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_v1_stores_one_less_in_every_field(bits: int) -> None:
    """Also in fields of 3 bits that lie across words: a symmetric layer has a 3 for each 4."""
    for low, sym in ((1, False), (1, True)):
        weight = random_weight(bits, 64, 64, 32, low=low)
        if sym:
            zeros = torch.full_like(weight.zeros(), 1 << (bits - 1))
            weight = dataclasses.replace(weight, qzeros=pack(zeros, bits, 1))
        stored = gptq.write(weight, v1=True)
        assert torch.equal(unpack(stored["qzeros"], bits, 64, 1) + 1, weight.zeros())
        sizes: dict[str, Any] = {"group_size": 32, "in_features": 64, "out_features": 64}
        assert same(gptq.read(stored, bits=bits, **sizes, v1=True, sym=sym), weight)


def broken(tensors: dict[str, torch.Tensor], key: str, how: str) -> dict[str, torch.Tensor]:
    tensor = tensors[key]
    changed = {
        "missing": None,
        "short": tensor[:-1],
        "turned": tensor.t() if tensor.dim() == 2 else tensor[None],
        "dtype": tensor.to(torch.int64 if not tensor.is_floating_point() else torch.int32),
    }[how]
    return {k: v for k, v in {**tensors, key: changed}.items() if v is not None}


@pytest.mark.parametrize("how", ["missing", "short", "turned", "dtype"])
@pytest.mark.parametrize("key", ["qweight", "qzeros", "scales"])
def test_malformed_tensors_are_a_clear_error(key: str, how: str) -> None:
    weight = random_weight(4, 96, 32, 16, low=1)
    sizes: dict[str, Any] = {"group_size": 16, "in_features": 96, "out_features": 32}
    with pytest.raises(FormatError, match=rf"layer.*{key}"):
        gptq.read(broken(gptq.write(weight), key, how), bits=4, **sizes, name="layer")
    with pytest.raises(FormatError, match=rf"layer.*{key}"):
        awq.read(broken(awq.write(weight), key, how), **sizes, name="layer")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": 5}, "bits must be one of"),
        ({"group_size": 0}, "group_size"),
        ({"group_size": 65}, "group_size"),
        ({"in_features": -1}, "in_features"),
        ({"g_idx": torch.full((64,), 4, dtype=torch.int32)}, "groups from 0 to 3"),
        ({"g_idx": torch.full((64,), -1, dtype=torch.int32)}, "groups from 0 to 3"),
    ],
)
def test_a_weight_that_contradicts_itself_is_refused(changes: dict[str, Any], said: str) -> None:
    weight = random_weight(4, 64, 32, 16)
    with pytest.raises(FormatError, match=said):
        dataclasses.replace(weight, **changes).check()


def test_what_a_format_cannot_say_is_refused() -> None:
    for weight in (random_weight(8, 32, 8, 16), random_weight(4, 32, 8, 16, act_order=True)):
        with pytest.raises(FormatError, match="write GPTQ"):
            awq.write(weight)
    with pytest.raises(FormatError, match="pack-quantized"):
        compressed_tensors.write(random_weight(3, 32, 32, 16))
    with pytest.raises(FormatError, match="0 to 15"):
        from_values(
            torch.full((16, 8), 16), torch.zeros(1, 8), torch.ones(1, 8), bits=4, group_size=16
        )
