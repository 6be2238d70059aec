"""The documentation says what is there, all of it, and nothing else."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from accel import hookspecs, probes, testing
from accel.cli.app import add_plugin_commands, build
from accel.pipeline import CHOICES, loaded_plugins
from accel.testing.conformance import RULES
from accel.troubles import Finding
from accel.values import Device, Impl, Patch, Probe
from accel_simulator.cards import simulatable

ROOT = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README.zh.md")
PAGES = (
    *READMES,
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
)
VARIABLE = re.compile(r"\bACCEL_[A-Z]+(?:_[A-Z]+)*\b")
SKIPPED = {".git", "__pycache__", "demo-output", ".demo", "dist", "build", "saves"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def files() -> Iterator[Path]:
    """Every file of the repository that git would not ignore, more or less."""
    for path in sorted(ROOT.iterdir()):
        if path.name in SKIPPED or (
            path.is_dir() and path.name.startswith(".") and path.name != ".ci"
        ):
            continue
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not SKIPPED & set(file.parts):
                yield file


def fenced(text: str, *languages: str) -> list[str]:
    """The lines of the fenced blocks in these languages."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [
        line for language, block in blocks if language in languages for line in block.split("\n")
    ]


def commands() -> dict[str, Any]:
    """The subcommands of `accel`, those of plugins included."""
    app = build()
    assert list(add_plugin_commands(app, loaded_plugins())) == []
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


@pytest.mark.parametrize(
    "hook", sorted(name for name in vars(hookspecs) if name.startswith("accel_"))
)
def test_every_hook_is_documented(hook: str) -> None:
    assert f"| `{hook}(" in read("docs/plugins.md")


@pytest.mark.parametrize("kind", [Device, Impl, Patch, Probe, Finding])
def test_every_field_is_documented_in_its_own_table(kind: type[Any]) -> None:
    sections = re.split(r"^## ", read("docs/plugins.md"), flags=re.MULTILINE)
    (section,) = (text for text in sections if text.startswith(f"{kind.__name__}\n"))
    rows = [line.split("|")[1] for line in section.split("\n") if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == {field.name for field in dataclasses.fields(kind)}


def test_every_rule_of_the_suite_is_documented_as_it_is() -> None:
    rows = re.findall(
        r"^\| `([a-z]+\.[a-z]+)` \| (.*?) \| (\w+) \|$", read("docs/conformance.md"), re.M
    )
    assert rows == [(rule.id, rule.says, rule.needs) for rule in RULES]


def test_every_probe_for_any_device_is_documented() -> None:
    page = read("docs/plugins.md")
    rows = [line for line in page.split("\n") if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert set(probes.__all__) <= documented


def test_every_variable_is_documented_and_every_documented_one_is_used() -> None:
    code = "\n".join(
        file.read_text(encoding="utf-8")
        for root in ("accel", "plugins", "kernels")
        for file in (ROOT / root).rglob("*.py")
    )
    used = {name for name in VARIABLE.findall(code) if not name.endswith("_")}
    # These are put together from the names of the choices.
    assert 'f"ACCEL_{name.upper()}"' in code
    used |= {f"ACCEL_{name.upper()}" for name in CHOICES}
    assert set(VARIABLE.findall(read("docs/environment.md"))) == used


def anchors(page: Path) -> set[str]:
    """What a link into that page may name after the `#`."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = (
        re.sub(r"[^\w\- ]", "", line.lower()) for line in re.findall(r"^#+ (.*)$", text, re.M)
    )
    return {*(line.replace(" ", "-") for line in headings), *re.findall(r'<a id="([^"]+)"', text)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists_with_its_options(page: str) -> None:
    known = commands()
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    text = read(page)
    shown = [line[2:] for line in fenced(text, "text") if line.startswith("$ ")]
    lines = [*fenced(text, "sh"), *shown]
    spans = re.findall(r"`((?:accel|make) [^`]+)`", text)
    for line in [*lines, *spans]:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words[:1] == ["make"]:
            assert {word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)} <= targets, line
        elif words[:1] == ["accel"] and len(words) > 1:
            assert words[1] in known, line
            if words[1] in ("run", "llamafactory", "simulate"):
                continue
            options = {name for option in known[words[1]].params for name in option.opts}
            assert {word for word in words if word.startswith("-")} <= options, line


@pytest.mark.parametrize("page", READMES)
def test_every_command_is_in_the_readme(page: str) -> None:
    rows = re.findall(r"^\| `accel ([\w-]+)` \|", read(page), re.MULTILINE)
    assert sorted(rows) == sorted(commands())


def test_the_readme_opens_with_what_it_is_and_two_commands() -> None:
    lines = read("README.md").split("\n")
    assert lines[0].startswith("# accel")
    assert all(lines[2:7])
    assert not lines[7]
    assert fenced(read("README.md"), "sh")[:2] == ["make demo", "make test"]


def test_ci_calls_exactly_the_readmes_test_command() -> None:
    lines = [line for line in read(".ci/run").split("\n") if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]


@pytest.mark.parametrize("page", READMES)
def test_the_report_in_the_readme_is_as_it_prints(page: str) -> None:
    (block,) = re.findall(r"^```text\n\$ accel (.*?)\n(.*?)\n\.\.\.\n```$", read(page), re.M | re.S)
    command, shown = block
    done = subprocess.run(
        [sys.executable, "-m", "accel", *command.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(shown.split("\n")) > 10
    assert done.stdout.startswith(shown)


@pytest.mark.parametrize("page", READMES)
def test_the_table_of_devices(page: str) -> None:
    """Every recorded machine is in it, its plugin exists, and it is called what it is.

    That a model trains on all that is called simulated: tests/simulator/test_sim_every_card.py.
    """
    points = {point.name for point in importlib.metadata.entry_points(group="accel")}
    seen = []
    for line in read(page).split("\n"):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 4 or cells[3] not in ("measured", "simulated", "declared"):
            continue
        assert set(re.findall(r"`([\w-]+)`", cells[1])) <= points, line
        names = re.findall(r"`([\w-]+)`", cells[2])
        if cells[3] == "measured":
            (plugin,) = re.findall(r"`([\w-]+)`", cells[1])
            assert list((ROOT / "docs" / "results").glob(f"{plugin}-*hardware.json")), line
        else:
            able = {bool(simulatable(testing.machine(name))) for name in names}
            assert able == {cells[3] == "simulated"}, line
        seen += names
    assert sorted(seen) == sorted(testing.machines())
    (named,) = re.findall(r"^\S.*`h100-mig`.*\.|^`h100`.*。", read(page), re.MULTILINE)
    read_on_real_ones = {n for n in testing.machines() if testing.machine(n).kind == "reading"}
    assert set(re.findall(r"`([\w-]+)`", named.partition("。")[0])) == read_on_real_ones


def test_both_readmes_have_the_same_form() -> None:
    english, chinese = (read(page) for page in READMES)
    levels = [re.findall(r"^(#+) ", text, re.MULTILINE) for text in (english, chinese)]
    assert levels[0] == levels[1]
    assert len(levels[0]) >= 8
    assert fenced(english, "sh", "text") == fenced(chinese, "sh", "text")
    tables = [
        [
            len(re.findall(r"^\|", part, re.MULTILINE))
            for part in re.split(r"^## ", text, flags=re.M)
        ]
        for text in (english, chinese)
    ]
    assert tables[0] == tables[1]
    states = [re.findall(r"\| (\w+) \|$", text, re.MULTILINE) for text in (english, chinese)]
    assert [s for s in states[0] if s.endswith("ed")] == [s for s in states[1] if s.endswith("ed")]
    links = [re.findall(r"\]\(([^)]+)\)", text) for text in (english, chinese)]
    swapped = [{"README.md": "README.zh.md"}.get(link, link) for link in links[1]]
    assert sorted(links[0]) == sorted(swapped)


def test_the_chinese_readme_is_chinese() -> None:
    prose = re.sub(r"^```.*?^```$|`[^`]*`", "", read("README.zh.md"), flags=re.M | re.S)
    assert len(re.findall(r"[\u4e00-\u9fff]", prose)) > 800


def test_no_file_names_a_registry_host_or_a_path_of_one_machine() -> None:
    hosts = ("pypi", "pythonhosted", "download.pytorch", "registry.npmjs", "deb.debian", "mirrors")
    host = "|".join(map(re.escape, hosts))
    folder = "|".join(("work", "opt/pypi", r"root/\.pyenv"))
    pattern = re.compile(rf"https?://[\w.-]*(?:{host})[\w.-]*|(?<![\w.$}}-])/(?:{folder})/")
    guilty = [
        f"{file.relative_to(ROOT)}: {match}"
        for file in files()
        if file.suffix not in (".png", ".safetensors", ".pyc")
        for match in pattern.findall(file.read_text(encoding="utf-8", errors="replace"))
    ]
    assert guilty == []
    assert pattern.search("https://" + "pypi.org/simple")
    assert pattern.search("see /" + "work/main")
