"""Ranges compared by plain numbers are compared as packaging compares them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

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


names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,6}[A-Za-z0-9])?", fullmatch=True)


@given(names, st.lists(clauses, max_size=2).map(", ".join), st.sampled_from(["", " ", "  "]))
def test_any_simple_requirement_is_read_as_packaging_reads_it(
    name: str, range_: str, blanks: str
) -> None:
    parsed = Requirement(f"{name}{blanks}{range_}")
    simple = requirement(f"{name}{blanks}{range_}")
    assert simple is not None
    assert (simple[0], SpecifierSet(simple[1])) == (parsed.name, parsed.specifier)


@given(st.text("ab.-_ 12<>=!~;[](),@'", max_size=10))
def test_what_packaging_refuses_is_never_taken_for_a_plain_name(text: str) -> None:
    simple = requirement(text)
    try:
        parsed = Requirement(text)
    except InvalidRequirement:
        if simple is not None:  # then the range is what is wrong, and is refused when it is asked
            with pytest.raises(InvalidSpecifier):
                within("1.0", simple[1])
    else:
        if simple is not None:
            assert (simple[0], SpecifierSet(simple[1])) == (parsed.name, parsed.specifier)


@given(versions)
def test_the_numbers_are_those_of_a_final_release(version: str) -> None:
    parsed = Version(version)
    final = not (parsed.is_prerelease or parsed.is_postrelease)
    numbers = release(version)
    assert (numbers is not None) is final
    if numbers is not None:
        assert Version(".".join(map(str, numbers or (0,)))) == Version(parsed.public)


@pytest.mark.parametrize(
    "text",
    ["x[extra]>=1", "x; python_version<'3'", "x @ file:///x", "x (>=1)", "", ">=1", "-x", "x y"],
)
def test_the_rest_is_packagings(text: str) -> None:
    assert requirement(text) is None
