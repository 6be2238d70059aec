"""A failure as data, and the cases that reproduce one. Imports nothing that would need torch."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomllib

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ORDINARY = "test"
"""The environment that `make test` uses; all others are in environments.toml."""

REAL = "real"
SIMULATED = "simulated"
RECORDED = "recorded"


@dataclasses.dataclass(frozen=True)
class Having:
    """A device that is not here: what it has, best first, and what it lacks with the reason."""

    kind: str = "cpu"
    arch: str = "test_1"
    vendor: str = "nobody"
    index: int = 0
    dtype: tuple[str, ...] = ("float32",)
    attention: tuple[str, ...] = ("sdpa", "eager")
    collective: tuple[str, ...] = ("gloo",)
    op: tuple[str, ...] = ()
    no_dtype: Mapping[str, str] = dataclasses.field(default_factory=dict)
    machine: str | None = None
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Case:
    """One reproduction: `body` raises without accel, with `error` in what it raises, and then not.

    `script` cases run in processes of their own: the text without accel, then under
    `accel run`, whose standard error must have each of `said` in it.
    """

    failure: str
    title: str
    error: str
    body: Callable[[], None] | None
    environment: str = ORDINARY
    how: str = REAL
    having: Having | None = None
    script: str = ""
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    said: tuple[str, ...] = ()
    by_hand: bool = False
    """torchvision and torchaudio are hidden by hand, because the failure is another one."""
    long: bool = False
    """Only `make test-failures` has the time; `make test` has its like in tests/frameworks."""
    lasting: bool = False
    """Leaves something behind in its process that nothing can take back."""

    @property
    def name(self) -> str:
        return f"{self.failure}-{self.title}".replace(" ", "-")


CASES: list[Case] = []


def case(failure: str, title: str, error: str, **fields: Any) -> Callable[[Any], Any]:
    """Register the function below as the body of a case."""

    def register(body: Callable[[], None]) -> Callable[[], None]:
        CASES.append(Case(failure, title, error, body, **fields))
        return body

    return register


def program(failure: str, title: str, error: str, script: str, **fields: Any) -> None:
    """Register a case that is a program of its own."""
    CASES.append(Case(failure, title, error, None, script=script, **fields))


def cases() -> list[Case]:
    """All of them, from every module of this folder that starts with `cases_`."""
    if not CASES:
        if str(HERE) not in sys.path:
            sys.path.insert(0, str(HERE))
        for path in sorted(HERE.glob("cases_*.py")):
            importlib.import_module(path.stem)
    return sorted(CASES, key=lambda one: (int(one.failure[1:] or 99), one.title))


def environments() -> dict[str, dict[str, Any]]:
    """environments.toml."""
    return tomllib.loads((HERE / "environments.toml").read_text(encoding="utf-8"))


def folder_of(environment: str) -> Path:
    """Where an environment is, or will be."""
    if environment == ORDINARY:
        return Path(sys.prefix)
    return ROOT / ".venv-failures" / environment
