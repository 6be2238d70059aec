"""The views of a plan: complete, readable, escaped, and the same every time."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.errors import InputError
from accel.planning import Plan
from accel.reporting import FORMATS, as_dict, as_html, as_markdown, as_text, render
from accel.values import (
    Decision,
    Device,
    Feature,
    Impl,
    Level,
    Note,
    Patch,
    PluginInfo,
    Stage,
)

CARD = Device(
    vendor="acme",
    name="Acme X100",
    kind="acme",
    arch="ax_9",
    family="nine",
    memory=80 << 30,
    driver="1.2",
    toolkit="3.4",
)
HOST = Device(vendor="host", name="Some CPU", kind="cpu", arch="x86_64", memory=8 << 30)


def decision(feature: Feature, name: str, accepted: bool = True, **more: Any) -> Decision:
    stage = more.pop("stage", Stage.INSTALLED)
    reason = more.pop("reason", "declared")
    impl = Impl(feature=feature, name=name, **more)
    return Decision(impl=impl, accepted=accepted, stage=stage, reason=reason)


def a_plan(**changes: Any) -> Plan:
    decisions = (
        decision(
            Feature.ATTENTION,
            "flash_attention_2",
            False,
            priority=60,
            reason="needs flash-attn>=2.5.6, which is not installed",
            source="a page",
        ),
        decision(Feature.ATTENTION, "sdpa", priority=50, source="another page", note="fused"),
        decision(Feature.DTYPE, "bfloat16", priority=50, source="a page"),
        decision(
            Feature.DTYPE, "float64", False, stage=Stage.DECLARED, reason="no units for it at all"
        ),
        decision(Feature.COLLECTIVE, "accl", limits={"refuses_dtypes": ["float64", "int8"]}),
        decision(Feature.QUANT, "gptq_torch"),
    )
    plan = Plan(
        machine="box",
        here=False,
        device=CARD,
        devices=(
            CARD,
            dataclasses.replace(CARD, index=1),
            dataclasses.replace(CARD, index=2),
            HOST,
        ),
        decisions=decisions,
        attention="sdpa",
        dtype="bfloat16",
        collective="accl",
        quant=("gptq_torch",),
        patches=(
            Patch(
                target="library.module:name",
                reason="it assumes something else",
                replace=lambda old: old,
                upstream="https://example.org/issues/1",
                until="library 2.0",
                owner="acme",
            ),
        ),
        plugins=(
            PluginInfo(name="acme", distribution="accel-acme", version="1", value="acme"),
            PluginInfo(
                name="bad",
                distribution="accel-bad",
                version="0.3",
                value="bad",
                status="failed",
                problem="raised ImportError: no",
            ),
        ),
        notes=(
            Note(level=Level.INFO, subject="device", message="chosen by priority"),
            Note(level=Level.WARNING, subject="card", message="is unused", remedy="plug it in"),
            Note(level=Level.ERROR, subject="plugin bad", message="raised ImportError: no"),
        ),
    )
    return dataclasses.replace(plan, **changes)


@dataclasses.dataclass(frozen=True)
class Entry:
    patch: Patch
    state: str
    detail: str = ""
    also: tuple[str, ...] = ()


def entries(plan: Plan) -> tuple[Entry, ...]:
    other = dataclasses.replace(plan.patches[0], target="library.late:thing")
    return (
        Entry(plan.patches[0], "applied", also=("user:name",)),
        Entry(other, "waiting", "library.late is not imported yet"),
        Entry(dataclasses.replace(other, target="library.old:x"), "skipped", "library 0.1 is here"),
    )


TEXT = """\
Acme X100 (ax_9) as acme:0
  machine     box; recorded: decisions are declared and installed; nothing was probed
  device      acme, ax_9, family nine, 80.0 GiB, driver 1.2, toolkit 3.4
  also here   acme:1 to acme:2: 2 x Acme X100 (acme, ax_9, family nine, 80.0 GiB, driver 1.2,
              toolkit 3.4)
              cpu: Some CPU (host, x86_64, 8.0 GiB)

Chosen
  attention   sdpa        declared; fused; not flash_attention_2: needs flash-attn>=2.5.6, which is
                          not installed
  dtype       bfloat16    declared
  collective  accl        declared; refuses dtypes: float64, int8
  quant       gptq_torch  usable, best first

Decisions: attention
  flash_attention_2  rejected  installed  needs flash-attn>=2.5.6, which is not installed [1]
* sdpa               accepted  installed  declared; fused [2]

Decisions: dtype
* bfloat16  accepted  installed  declared [1]
  float64   rejected  declared   no units for it at all

Decisions: quant
  gptq_torch  accepted  installed  declared

Decisions: collective
* accl  accepted  installed  declared

Patches: 1 planned
  planned   library.module:name
            it assumes something else
            https://example.org/issues/1
            until library 2.0

Notes
  warning    card: is unused
             try: plug it in
  info       device: chosen by priority

Plugins left out
  bad (from accel-bad 0.3) failed: raised ImportError: no

Sources
  [1] a page
  [2] another page"""


def test_text_as_it_really_prints() -> None:
    assert as_text(a_plan()) == TEXT


def test_brief_text_leaves_the_single_decisions_out() -> None:
    brief = as_text(a_plan(), brief=True)
    assert "Decisions" not in brief
    assert "Sources" not in brief
    assert "Patches: 1 planned" in brief
    assert "attention   sdpa" in brief


def test_what_became_of_the_patches() -> None:
    plan = a_plan()
    text = as_text(plan, entries=entries(plan))
    assert "Patches: 1 applied, 1 waiting, 1 skipped" in text
    assert "also bound as user:name" in text
    assert "  skipped   library.old:x" in text
    assert "library 0.1 is here" in text
    for view in (as_markdown, as_html):
        shown = view(plan, entries=entries(plan))
        for word in ("applied", "waiting", "skipped", "library.old:x", "library 0.1 is here"):
            assert word in shown
    states = [patch["state"] for patch in as_dict(plan, entries=entries(plan))["patches"]]
    assert states == ["applied", "waiting", "skipped"]


def test_a_report_has_more_notes_than_its_plan() -> None:
    late = Note(level=Level.DOWNGRADE, subject="library", message="asked for more")
    plan = a_plan()
    for view in (as_text, as_markdown, as_html):
        assert "asked for more" in view(plan, notes=(*plan.notes, late))
        assert "asked for more" not in view(plan)
    assert as_dict(plan, notes=(late,))["notes"][0]["level"] == "downgrade"


def test_colours_change_no_letter() -> None:
    plan = a_plan()
    for more in ({}, {"entries": entries(plan)}):
        plain, colored = as_text(plan, **more), as_text(plan, color=True, **more)
        assert plain != colored
        assert re.sub(r"\033\[\d+m", "", colored) == plain


@pytest.mark.parametrize(
    ("here", "stage", "said"),
    [
        (False, Stage.INSTALLED, "recorded: decisions are declared and installed; nothing was"),
        (True, Stage.INSTALLED, "this machine; decisions are declared and installed; nothing was"),
        (True, Stage.PROBED, "1 of 1 accepted decisions proven here"),
    ],
)
def test_how_far_decisions_were_taken_is_said(here: bool, stage: Stage, said: str) -> None:
    name = "this machine" if here else "box"
    decisions = (decision(Feature.ATTENTION, "sdpa", stage=stage),)
    assert said in as_text(a_plan(here=here, machine=name, decisions=decisions))


def test_nothing_that_can_be_had_is_said() -> None:
    text = as_text(a_plan(attention=None, dtype=None, collective=None, quant=(), decisions=()))
    assert "attention   none  no implementation can be had" in text
    assert "quant       none  no quantised weights can be used" in text


def test_a_device_torch_cannot_use_is_said() -> None:
    broken = dataclasses.replace(CARD, problem="its driver is missing", remedy="install it")
    text = as_text(a_plan(devices=(HOST, broken), device=HOST))
    assert "acme:0: Acme X100" in text
    assert "not usable: its driver is missing" in " ".join(text.split())


def test_a_name_cannot_write_to_the_terminal() -> None:
    evil = dataclasses.replace(CARD, name="X\033[2J\n\nAll fine\x07", driver="\u202e1")
    text = as_text(a_plan(device=evil, devices=(evil,)))
    assert "\033" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert text.splitlines()[0] == "X�[2J All fine� (ax_9) as acme:0"


words = st.text(min_size=1, max_size=40).map(str.strip).filter(bool)


@given(
    names=st.lists(
        st.text("abcdefghij_0123456789", min_size=1, max_size=24), min_size=1, max_size=8
    ),
    reasons=st.lists(st.lists(st.text("abcxyz", min_size=1, max_size=12), max_size=60), min_size=8),
)
def test_lines_fit_a_hundred_columns(names: list[str], reasons: list[list[str]]) -> None:
    decisions = tuple(
        decision(Feature.OP, name, reason=" ".join(reason) or "x", source="s")
        for name, reason in zip(names, reasons, strict=False)
    )
    text = as_text(a_plan(decisions=decisions))
    assert max(map(len, text.splitlines())) <= 100


class _Checker(HTMLParser):
    """Collects text and tags, and sees that they are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@given(reason=words, name=words, message=words)
def test_html_is_balanced_and_escaped(reason: str, name: str, message: str) -> None:
    evil = dataclasses.replace(CARD, name=f"<script>{name}")
    plan = a_plan(
        device=evil,
        devices=(evil,),
        decisions=(decision(Feature.OP, "x", reason=f"<b>{reason}", source="<img src=x>"),),
        notes=(Note(level=Level.ERROR, subject="</div>", message=f"&{message}"),),
    )
    checker = _Checker()
    checker.feed(as_html(plan))
    checker.close()
    assert checker.open == []
    assert checker.tags <= {
        *("div", "style", "p", "strong", "table", "tr", "th", "td", "details", "summary")
    }
    assert "<script>" in checker.text


def test_html_needs_nothing_from_elsewhere_and_sets_no_ground() -> None:
    shown = as_html(a_plan())
    assert not re.search(r"(?:src|href|@import|url\()", shown)
    assert "background: #" not in shown
    assert not re.search(r"(?<![-\w])color: (?:#fff|#000|black|white)", shown)


@given(name=words)
def test_markdown_tables_keep_their_columns(name: str) -> None:
    plan = a_plan(decisions=(decision(Feature.OP, "x", reason=f"a|b`{name}*_", source="x|y"),))
    shown = as_markdown(plan)
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    counts = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows]
    table = shown.split("### Decisions: op")[1].split("###")[0]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", r)) for r in table.splitlines() if r} == {6}
    assert all(counts)


def test_names_keep_their_underscores_in_markdown() -> None:
    assert "| flash_attention_2 | rejected |" in as_markdown(a_plan())


def test_json_is_json_and_its_keys_are_stable() -> None:
    body = json.loads(json.dumps(as_dict(a_plan())))
    assert body["schema"] == "accel-report/1"
    assert list(body) == [
        *("schema", "machine", "here", "simulated", "device", "devices", "chosen"),
        *("decisions", "patches", "notes", "plugins"),
    ]
    assert body["chosen"] == {
        "attention": "sdpa",
        "dtype": "bfloat16",
        "collective": "accl",
        "quant": ["gptq_torch"],
    }
    assert body["device"]["torch"] == "acme:0"
    assert set(body["decisions"]) == {feature.value for feature in Feature}
    first = body["decisions"]["attention"][0]
    assert (first["name"], first["accepted"], first["stage"]) == (
        "flash_attention_2",
        False,
        "installed",
    )
    assert body["patches"][0]["target"] == "library.module:name"
    assert body["plugins"][1]["status"] == "failed"


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_is_the_same_every_time(form: str) -> None:
    assert render(a_plan(), form) == render(a_plan(), form)


def test_an_unknown_form_is_an_error_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="text, markdown, html, json"):
        render(a_plan(), "pdf")


def test_text_imports_neither_rich_nor_torch() -> None:
    source = (
        "import sys, accel.reporting.text, accel.reporting.markup, accel.reporting.data;"
        "sys.exit(bool({'rich', 'torch', 'typer'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0
