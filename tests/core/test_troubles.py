"""Troubles as data: what is read, and what is refused."""

from __future__ import annotations

import pytest

from accel.errors import PluginContractError
from accel.troubles import Trouble, has_troubles, known_troubles, load_troubles, parse_troubles

TEXT = """
schema = 1
[trouble.acme-cold]
severity = "warning"
title = "a cold card"
symptom = "RuntimeError: too cold"
cause = "winter"
remedy = "a coat"
problem = ["is cold"]
"""


def test_a_trouble_becomes_a_finding() -> None:
    trouble = parse_troubles(TEXT, "acme")["acme-cold"]
    assert trouble.problem == ("is cold",)
    finding = trouble.found("Acme One", "-3 C", "export COAT=1", files={"coat.txt": "wool"})
    assert (finding.id, finding.severity, finding.symptom) == (
        *("acme-cold", "warning", "RuntimeError: too cold"),
    )
    assert (finding.subject, finding.evidence, finding.command) == (
        *("Acme One", "-3 C", "export COAT=1"),
    )
    assert (finding.cause, finding.remedy, finding.owner) == ("winter", "a coat", "")
    assert finding.files == {"coat.txt": "wool"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("schema = 1", "schema = 2", "unknown schema"),
        ("schema = 1", "schema =", "not valid TOML"),
        ('"warning"', '"grave"', "severity = 'grave'"),
        ("cause =", "because =", "because"),
        ('cause = "winter"\n', "", "'cause'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(old: str, new: str, said: str) -> None:
    with pytest.raises(PluginContractError) as caught:
        parse_troubles(TEXT.replace(old, new), "acme/doctor.toml")
    assert said in str(caught.value)
    assert "acme/doctor.toml" in str(caught.value)


def test_packages_without_troubles_are_passed_over() -> None:
    assert not has_troubles("json")
    found = known_troubles(["json", "accel.doctor"])
    assert list(found) == ["accel.doctor"]
    assert all(isinstance(one, Trouble) for one in found["accel.doctor"].values())
    with pytest.raises(PluginContractError, match=r"json has no doctor\.toml"):
        load_troubles("json")


def test_one_id_in_two_packages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    same = parse_troubles(TEXT, "acme")
    monkeypatch.setattr("accel.troubles.load_troubles", lambda package: same)
    monkeypatch.setattr("accel.troubles.has_troubles", lambda package: True)
    with pytest.raises(PluginContractError, match="acme-cold") as caught:
        known_troubles(["one", "two"])
    assert "one and two" in str(caught.value)
