"""`make flags`: every row of the flag table through `accel llamafactory train`, before and after.

    python tests/failures/flags_table.py [--model FOLDER] [--only WORD] [--apart] [--json]
                                         [--write FILE] [--record]

Without --model it is SmolLM2-135M-Instruct, fetched as `make demo` does. Two steps a row: without
accel, with it, and with it under ACCEL_STRICT=1. Rows share processes where they can, three for
each environment; with `--apart` each row has three of its own. `--record` keeps the table for
docs/flags.md, which `write_docs.py` then writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import failure
import flags

SECONDS = 600
RECORD = failure.HERE / "flags_measured.json"
REFUSAL = re.compile(
    r"(?:CapabilityUnavailable: |^accel: )(.+)\n(?:\[rank\d+\]:)?\s+(?:found|try):", re.MULTILINE
)
FRAMES = re.compile(r" \[[^\[\]]+:\d+\]$|^\[rank\d+\]:")
MODES = ("without", "auto", "strict")
COLUMNS = ("flag", "without accel", "with accel", "under strict")
PREAMBLE = ("import sys; sys.argv = ['llamafactory-cli', *sys.argv[1:]];"
            "from llamafactory.cli import main; main()")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ended:
    """How one run ended: in a few words, with what accel said of the flag."""

    ok: bool
    words: str
    said: str
    """The line of the report that has what the row's data says must be there, or nothing."""


def smollm2(cache: Path) -> Path:
    """The demo's model as a folder that transformers loads; fetched and converted if need be."""
    from accel_frameworks.demo.common import Voice
    from accel_frameworks.demo.fetching import fetch_gguf

    folder = cache / "SmolLM2-135M-Instruct"
    if (folder / "config.json").is_file():
        return folder
    gguf = fetch_gguf(cache, Voice())
    code = (
        "import accel; accel.auto();"
        "import sys, torch; from transformers import AutoModelForCausalLM, AutoTokenizer;"
        "given = dict(gguf_file=sys.argv[2]); "
        "m = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, **given);"
        "t = AutoTokenizer.from_pretrained(sys.argv[1], **given);"
        "t.save_pretrained(sys.argv[3]); m.save_pretrained(sys.argv[3])"
    )
    command = [sys.executable, "-c", code, str(gguf.parent), gguf.name, str(folder)]
    subprocess.run(command, check=True, env=surroundings("test", {}))
    return folder


def surroundings(environment: str, variables: Mapping[str, str], by_hand: bool = False) -> Any:
    """A child's environment, as in test_failures."""
    import test_failures

    folder = Path(tempfile.gettempdir()) / f"accel-flags-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    given = test_failures.surroundings(environment, folder, by_hand, **variables)
    threads = os.environ.get("OMP_NUM_THREADS", "2")
    return {**given, "OMP_NUM_THREADS": threads, "LLAMAFACTORY_VERBOSITY": "WARN"}


def run(row: flags.Row, job: Path, mode: str) -> Ended:
    """One training of the row in a process of its own."""
    python = str(failure.folder_of(row.environment) / "bin" / "python")
    repaired = mode != "without"
    command = [python, "-m", "accel", "llamafactory"] if repaired else [python, "-c", PREAMBLE]
    more = {"ACCEL_STRICT": "1"} if mode == "strict" else {}
    done = subprocess.run(
        [*command, "train", job.name],
        cwd=job.parent,
        env=surroundings(row.environment, {**row.variables, **more}, by_hand=not repaired),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return seen(row, done.returncode == 0, done.stdout + done.stderr, mode)


def seen(row: flags.Row, ok: bool, output: str, mode: str) -> Ended:
    """How it ended, from what it wrote."""
    told = [line.strip() for line in output.splitlines() if row.said and row.said in line]
    said = told[-1].removeprefix("accel: ") if told else ""
    if ok:
        return Ended(True, "ends well", said)
    if mode != "without" and (words := refusal(output)):
        return Ended(False, f"refused: {words}", said)
    return Ended(False, error_of(output, row.before if mode == "without" else row.said), said)


def refusal(output: str) -> str:
    """What accel refused, in its own words; empty where the error is not accel's."""
    found = REFUSAL.findall(output)
    return str(found[-1]) if found else ""


def together(rows: Sequence[flags.Row], model: Path) -> dict[str, list[Ended]]:
    """The rows that need no process of their own, in three processes for each environment."""
    found: dict[str, list[Ended]] = {}
    for environment in sorted({row.environment for row in rows}):
        own = [row for row in rows if row.environment == environment]
        results = [in_one(environment, mode, own, model) for mode in MODES]
        for row in own:
            found[row.name] = [
                ended(row, result, mode) for mode, result in zip(MODES, results, strict=True)
            ]
    return found


def in_one(environment: str, mode: str, rows: Sequence[flags.Row], model: Path) -> Any:
    """flag_runner's results for these rows."""
    print(f"{len(rows)} rows in {environment}, {mode} ...", file=sys.stderr, flush=True)
    python = str(failure.folder_of(environment) / "bin" / "python")
    bare = flags.Row("", {}, "")
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(Path(folder), model, bare)
        done = subprocess.run(
            [
                python,
                str(failure.HERE / "flag_runner.py"),
                environment,
                str(job),
                mode,
                *(row.name for row in rows),
            ],
            cwd=folder,
            env=surroundings(environment, {}, by_hand=mode == "without"),
            capture_output=True,
            text=True,
            timeout=SECONDS * 3,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def ended(row: flags.Row, results: Any, mode: str) -> Ended:
    """A row's part of them."""
    found = results[row.name]
    text = "\n".join([*found["said"], found["outcome"]])
    return seen(row, found["outcome"] == "ok", text, mode)


def error_of(output: str, wanted: str) -> str:
    """The line that says what went wrong: the one expected, or the last that looks like it."""
    lines = [
        FRAMES.sub("", part).strip()
        for line in output.splitlines()
        for part in line.split(" <- ")  # flag_runner's, an error and its causes
        if part.strip()
    ]
    expected = [line for line in lines if wanted and wanted in line]
    errors = [line for line in lines if "Error" in line.partition(":")[0]]
    found = (expected or errors or lines or ["no output"])[-1]
    return found if len(found) <= 150 else found[:147] + "..."


def write_job(folder: Path, model: Path, row: flags.Row) -> Path:
    """The job of a row, with the two-line data set of the tests."""
    sys.path.insert(0, str(failure.ROOT / "tests" / "frameworks"))
    from tiny_training import write_job as write

    options: dict[str, Any] = {"max_steps": 2, "learning_rate": 1e-4, **row.flags}
    if options.get(flags.MODEL) == flags.AWQ:
        from flag_runner import quantised

        options[flags.MODEL] = quantised(str(model), folder / "awq")
    if not options.get("do_train", True):
        options.update(max_samples=2)
    return write(folder, model, **options)


def main(arguments: Sequence[str]) -> int:
    """The table; 1 where a row did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--cache", type=Path, default=failure.ROOT / ".demo")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--apart", action="store_true", help="two processes for each row")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, help="a Markdown file to write the table to")
    parser.add_argument("--record", action="store_true", help="keep it for docs/flags.md")
    given = parser.parse_args(arguments)
    if given.record and given.only:
        parser.error("--record keeps the whole table: without --only")
    model = (given.model or smollm2(given.cache)).resolve()
    wanted = [row for row in flags.ROWS if given.only in row.name]
    shared = {} if given.apart else together([row for row in wanted if not row.program], model)
    rows, wrong = [], 0
    for row in wanted:
        started = time.monotonic()
        without, auto, strict = shared.get(row.name) or apart(row, model)
        good = judged(row, without, auto, strict)
        wrong += not good
        cells = (row.name, cell(without), cell(auto), cell(strict))
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
        mark = "  " if good else "! "
        print(f"{mark}{row.name} ({time.monotonic() - started:.0f} s)", file=sys.stderr)
        for title, text in list(rows[-1].items())[1:]:
            print(f"    {title:14}{text}", file=sys.stderr, flush=True)
    if given.json:
        print(json.dumps(rows, indent=1))
    else:
        print(markdown(rows))
    if given.write is not None:
        given.write.write_text(markdown(rows) + "\n", encoding="utf-8")
    if given.record:
        record = {"where": where(), "rows": rows}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(bool(wrong))


def apart(row: flags.Row, model: Path) -> list[Ended]:
    """A row in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(Path(folder), model, row)
        found = []
        for mode in MODES:
            shutil.rmtree(job.parent / "out", ignore_errors=True)
            found.append(run(row, job, mode))
        return found


def judged(row: flags.Row, without: Ended, auto: Ended, strict: Ended) -> bool:
    """Whether a row ended as its data says, all three times."""
    red = row.before in without.words if row.before else without.ok
    green = auto.ok == (row.after == flags.TRAINS)
    refused = row.after == flags.REFUSED or row.strict == flags.REFUSED
    return red and green and strict.ok != refused and bool(auto.said or not row.said)


def cell(ended: Ended) -> str:
    """How it ended, in a cell."""
    if not ended.ok:
        return ended.words
    return f"trains; {ended.said}" if ended.said else "trains"


def where() -> str:
    """The processor and the libraries, for the page."""
    import importlib.metadata

    from accel.machine import ThisMachine

    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("torch", "transformers", "peft", "llamafactory")
    )
    return f"{ThisMachine().cpu().model}; {versions}"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """The table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        lines.append("| " + " | ".join(row[key].replace("|", "\\|") for key in COLUMNS) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
