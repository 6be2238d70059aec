"""Ranges compared by plain numbers are compared as packaging compares them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from accel.versions import release, requirement, within

numbers = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(lambda n: ".".join(map(str, n)))
versions = st.one_of(
    numbers,
    st.tuples(numbers, st.sampled_from(["+cpu", "+cu130", "rc1", ".post1", ".dev2", "+a.b"])).map(
        "".join
    ),
)
clauses = st.tuples(st.sampled_from([">=", "<", ">", "<=", "!=", "=="]), numbers).map("".join)


@given(versions, st.lists(clauses, max_size=3).map(",".join))
def test_as_packaging_has_it(version: str, range_: str) -> None:
    assert within(version, range_) == SpecifierSet(range_).contains(version, prereleases=True)


def test_what_is_no_range_is_packagings_to_refuse() -> None:
    with pytest.raises(InvalidSpecifier):
        within("1.0", "newest")
    assert within("2.1.0+das.opt1.dtk25041", ">=2.1,<2.2")
    assert release("2.1.0.das1") is None
    assert release("2.0") == release("2") == (2,)


@pytest.mark.parametrize(
    "text", ["torch>=2.5", "flash-attn >=2.7.3, <3", "a.b_c", "x==1", "x~=1.2", "x!=1"]
)
def test_simple_requirements_are_read_as_packaging_reads_them(text: str) -> None:
    parsed = Requirement(text)
    simple = requirement(text)
    assert simple is not None
    assert (simple[0], SpecifierSet(simple[1])) == (parsed.name, parsed.specifier)


@pytest.mark.parametrize(
    "text",
    ["x[extra]>=1", "x; python_version<'3'", "x @ file:///x", "x (>=1)", "", ">=1", "-x", "x y"],
)
def test_the_rest_is_packagings(text: str) -> None:
    assert requirement(text) is None
