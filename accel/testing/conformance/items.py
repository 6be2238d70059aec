"""The rules as pytest items: one for each rule of each plugin that was named.

A rule passes where a case of it ran and all that ran passed; what was skipped beside is in the
report's sections. Where nothing ran it is skipped, and where all that ran failed as expected it is
an expected failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from accel.errors import InputError
from accel.testing.conformance.rendering import verdict
from accel.testing.conformance.results import BAD, Result
from accel.testing.conformance.rules import RULES, Rule
from accel.testing.conformance.suite import Suite

FOLDER = "conformance"


class NotConforming(Exception):
    """A rule does not hold. The text has every case in which it does not."""


class RuleItem(pytest.Item):
    """One rule, for one plugin."""

    def __init__(self, *, rule: Rule, suite: Suite, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rule = rule
        self.suite = suite

    def runtest(self) -> None:
        results = list(self.suite.check(self.rule))
        for name in ("skipped", "expected"):
            lines = _lines([r for r in results if r.status == name])
            if lines:
                self.add_report_section("call", name, "\n".join(lines))
        bad = [result for result in results if result.status in BAD]
        if bad:
            raise NotConforming("\n".join(_lines(bad)))
        outcome = verdict(results)
        if outcome == "skipped":
            pytest.skip("; ".join(sorted({r.detail for r in results})) or "nothing to run")
        if outcome == "expected":
            pytest.xfail("; ".join(sorted({r.reason for r in results if r.reason})))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, NotConforming):
            return f"{self.rule.id}: a plugin {self.rule.says}; this one does not\n{excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, None, str]:
        return FOLDER, None, self.name


def _lines(results: Sequence[Result]) -> list[str]:
    return [f"{r.name}: {r.detail}" + (f" ({r.reason})" if r.reason else "") for r in results]


class Collector:
    """Adds the rules to whatever else pytest collected."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        for name in self._names:
            items.extend(_items(session, name))


def _items(session: pytest.Session, name: str) -> Iterator[pytest.Item]:
    try:
        suite = Suite(name)
    except InputError as error:
        raise pytest.UsageError(str(error)) from None
    for rule in RULES:
        item: pytest.Item = RuleItem.from_parent(
            session,
            name=f"{name}[{rule.id}]",
            nodeid=f"{FOLDER}::{name}[{rule.id}]",
            rule=rule,
            suite=suite,
        )
        # A rule has time limits of its own, for each thing that it does.
        if session.config.pluginmanager.hasplugin("timeout"):
            item.add_marker(pytest.mark.timeout(0))
        yield item
