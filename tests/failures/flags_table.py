"""`make flags`: every row of the flag table through `accel llamafactory train`, before and after.

    python tests/failures/flags_table.py [--model FOLDER] [--only WORD] [--apart] [--json]
                                         [--write FILE]

Without --model it is SmolLM2-135M-Instruct, fetched as `make demo` does. Two steps a row. Rows
share a process where they can, one without accel and one with it for each environment; with
`--apart` each row has two of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
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
PREAMBLE = ("import sys; sys.argv = ['llamafactory-cli', *sys.argv[1:]];"
            "from llamafactory.cli import main; main()")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ended:
    """How one run ended: in a few words, with what accel said of the flag."""

    ok: bool
    words: str
    said: bool


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


def run(row: flags.Row, job: Path, *, repaired: bool, strict: bool = False) -> Ended:
    """One training of the row in a process of its own."""
    python = str(failure.folder_of(row.environment) / "bin" / "python")
    command = [python, "-m", "accel", "llamafactory"] if repaired else [python, "-c", PREAMBLE]
    more = {"ACCEL_STRICT": "1"} if strict else {}
    done = subprocess.run(
        [*command, "train", job.name],
        cwd=job.parent,
        env=surroundings(row.environment, {**row.variables, **more}, by_hand=not repaired),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    output = done.stdout + done.stderr
    said = bool(row.said) and row.said in output
    if done.returncode == 0:
        return Ended(True, "ends well", said)
    return Ended(False, error_of(output, row.before if not repaired else row.said), said)


def together(rows: Sequence[flags.Row], model: Path) -> dict[str, tuple[Ended, Ended]]:
    """The rows that need no process of their own, in two processes for each environment."""
    found: dict[str, tuple[Ended, Ended]] = {}
    for environment in sorted({row.environment for row in rows}):
        own = [row for row in rows if row.environment == environment]
        modes = [in_one(environment, mode, own, model) for mode in ("without", "auto")]
        for row in own:
            found[row.name] = (ended(row, modes[0], False), ended(row, modes[1], True))
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


def ended(row: flags.Row, results: Any, repaired: bool) -> Ended:
    """A row's part of them."""
    found = results[row.name]
    text = found["outcome"] + "\n" + "\n".join(found["said"])
    said = bool(row.said) and row.said in text
    if found["outcome"] == "ok":
        return Ended(True, "ends well", said)
    return Ended(False, error_of(found["outcome"], row.said if repaired else row.before), said)


def error_of(output: str, wanted: str) -> str:
    """The line that says what went wrong: the one expected, or the last that looks like it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
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
    given = parser.parse_args(arguments)
    model = (given.model or smollm2(given.cache)).resolve()
    wanted = [row for row in flags.ROWS if given.only in row.name]
    shared = {} if given.apart else together([row for row in wanted if not row.program], model)
    rows, wrong = [], 0
    for row in wanted:
        started = time.monotonic()
        if row.name in shared:
            before, after = shared[row.name]
        else:
            with tempfile.TemporaryDirectory() as folder:
                job = write_job(Path(folder), model, row)
                before = run(row, job, repaired=False)
                shutil.rmtree(job.parent / "out", ignore_errors=True)
                after = run(row, job, repaired=True)
        good = judged(row, before, after)
        wrong += not good
        rows.append({"flag": row.name, "before": before.words, "after": told(row, after)})
        mark = "  " if good else "! "
        seconds = time.monotonic() - started
        print(f"{mark}{row.name} ({seconds:.0f} s)\n    before  {before.words}", file=sys.stderr)
        print(f"    after   {told(row, after)}", file=sys.stderr, flush=True)
    if given.json:
        print(json.dumps(rows, indent=1))
    else:
        print(markdown(rows))
    if given.write is not None:
        given.write.write_text(markdown(rows) + "\n", encoding="utf-8")
    return int(bool(wrong))


def judged(row: flags.Row, before: Ended, after: Ended) -> bool:
    """Whether a row ended as its data says, before and after."""
    red = row.before in before.words if row.before else before.ok
    green = after.ok if row.after == flags.TRAINS else not after.ok
    return red and green and (after.said or not row.said)


def told(row: flags.Row, after: Ended) -> str:
    """What it came to with accel, in a cell."""
    if not after.ok:
        return f"refused: {after.words}"
    return f"trains; says: {row.said}" if after.said else "trains"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """The table."""
    lines = ["| flag | without accel | with accel |", "|---|---|---|"]
    for row in rows:
        cells = [row[key].replace("|", "\\|") for key in ("flag", "before", "after")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
