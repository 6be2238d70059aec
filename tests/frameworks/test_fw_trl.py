"""trl's questions about optional packages, where transformers answers each with two values."""

from __future__ import annotations

import types
from typing import Any

import pytest

from accel_frameworks import trl


def asked(answer: Any) -> types.SimpleNamespace:
    """A trl.import_utils whose transformers answers so."""

    def ask(name: str, return_version: bool = False) -> Any:
        return ("there" in name, "1.0") if return_version else answer("there" in name)

    return types.SimpleNamespace(
        _is_package_available=ask,
        _weave_available=answer(False),
        _joblib_available=answer(True),
        _vllm_version="N/A",
    )


def pair(found: bool) -> tuple[bool, None]:
    return found, None


def test_a_pair_is_no_yes_and_revert_gives_it_back() -> None:
    module = asked(pair)
    before = dict(vars(module))
    assert trl._answers_plainly(module) is None
    undo = trl._answered(module)
    assert (module._weave_available, module._joblib_available) == (False, True)
    assert module._is_package_available("gone") is False
    assert module._is_package_available("there") is True
    assert module._is_package_available("there", return_version=True) == (True, "1.0")
    undo()
    assert vars(module) == before


@pytest.mark.parametrize("module", [asked(bool), types.SimpleNamespace()])
def test_where_the_answer_is_one_value_there_is_nothing_to_do(module: Any) -> None:
    assert trl._answers_plainly(module) == "this transformers answers with one value"
