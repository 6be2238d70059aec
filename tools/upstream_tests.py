"""Other people's own tests, without accel and with it: at least the same must pass.

    python tools/upstream_tests.py [accelerate] [llamafactory] [--json] [--record]

Run with the Python of an environment that has the libraries, pytest, pytest-xdist and
pytest-timeout. The sources come from the package index, in the version that is installed; a test
that passes without accel and not with it is named, and the exit code is 1. Such a test is run
three times more: some of them fail now and then by themselves. Without accel a torchvision and a
torchaudio that cannot be imported are hidden, as a user does by hand; else hardly a test starts.
`--record` keeps the counts for docs/failures.md, which `tests/failures/write_docs.py` then writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

AGAIN = 3
SECONDS = 1200
FAILURES = Path(__file__).resolve().parents[1] / "tests" / "failures"
BY_HAND = FAILURES / "by_hand"
RECORD = FAILURES / "upstream_measured.json"


@dataclasses.dataclass(frozen=True)
class Suite:
    """A library's tests: where they are in its source distribution, what is left out and why."""

    distribution: str
    paths: tuple[str, ...]
    source: str = ""


SUITES = {
    "accelerate": Suite(
        "accelerate",
        tuple(
            f"tests/test_{name}.py"
            for name in (
                *("accelerator", "cpu", "data_loader", "hooks", "kwargs_handlers", "logging"),
                *("memory_utils", "modeling_utils", "optimizer", "scheduler", "utils"),
                *("grad_sync", "metrics", "launch", "offload", "imports"),
            )
        ),
    ),
    "llamafactory": Suite("llamafactory", ("tests",), source="src"),
}


def unpacked(suite: Suite, folder: Path) -> Path:
    """The source distribution of what is installed, unpacked in `folder`."""
    version = importlib.metadata.version(suite.distribution)
    wanted = f"{suite.distribution}=={version}"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation"),
            *("--no-binary", ":all:", wanted, "-d", str(folder)),
        ],
        check=True,
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (inside,) = (path for path in folder.iterdir() if path.is_dir())
    return inside


def passes(suite: Suite, where: Path, accel: bool, only: list[str]) -> dict[str, str]:
    """Each test and what became of it, run in `where`."""
    report = where.parent / "report.xml"
    report.unlink(missing_ok=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ACCEL_")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCEL_PROBE": "0"}
    path = [str(where / suite.source)] if suite.source else []
    if accel:
        environment["ACCEL_AUTO"] = "1"
    elif _broken_companion():
        path.append(str(BY_HAND))
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(path)
    paths = only or [path for path in suite.paths if (where / path).exists()]
    subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-n", "2", "--timeout", "120", "-o", "addopts=", "--junitxml", str(report), *paths),
        ],
        cwd=where,
        env=environment,
        stdout=subprocess.DEVNULL,
        timeout=SECONDS,
        check=False,
    )
    if not report.is_file():
        raise SystemExit(f"pytest of {suite.distribution} ended without a report, see above")
    return outcomes(report.read_text(encoding="utf-8"))


@functools.cache
def _broken_companion() -> bool:
    """Whether torchvision or torchaudio is installed and cannot be imported."""
    return any(
        subprocess.run(
            [sys.executable, "-c", f"import {name}"], stderr=subprocess.DEVNULL, check=False
        ).returncode
        for name in ("torchvision", "torchaudio")
        if importlib.util.find_spec(name) is not None
    )


def outcomes(text: str) -> dict[str, str]:
    """`file.py::Class::test` to `passed`, `failed` or `skipped`, from a JUnit report."""
    found: dict[str, str] = {}
    for case in ElementTree.fromstring(text).iter("testcase"):  # noqa: S314 - pytest's own
        kinds = {child.tag for child in case}
        state = "failed" if kinds & {"failure", "error"} else "passed"
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name] = "skipped" if "skipped" in kinds else state
    return found


def lost(without: dict[str, str], with_accel: dict[str, str]) -> list[str]:
    """What passes without accel and not with it."""
    return sorted(
        name
        for name, state in without.items()
        if state == "passed" and with_accel.get(name) != "passed"
    )


def compare(suite: Suite) -> dict[str, object]:
    """Counts each way, and what is lost for certain."""
    with tempfile.TemporaryDirectory() as folder:
        where = unpacked(suite, Path(folder))
        without = passes(suite, where, False, [])
        with_accel = passes(suite, where, True, [])
        doubtful = lost(without, with_accel)
        for _ in range(AGAIN if doubtful else 0):
            again = passes(suite, where, True, [])
            doubtful = [name for name in doubtful if again.get(name) != "passed"]
            if not doubtful:
                break
    return {
        "distribution": suite.distribution,
        "version": importlib.metadata.version(suite.distribution),
        "without": _counts(without),
        "with": _counts(with_accel),
        "lost": doubtful,
    }


def _counts(states: dict[str, str]) -> dict[str, int]:
    return {state: list(states.values()).count(state) for state in ("passed", "failed", "skipped")}


def main() -> int:
    """Run what was asked for, all of it by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("suites", nargs="*", choices=[[], *SUITES], default=[])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="keep the counts for the docs")
    arguments = parser.parse_args()
    if arguments.record and arguments.suites:
        parser.error("--record keeps all of them: name none")
    results = []
    for name in arguments.suites or SUITES:
        print(f"{name}: its own tests, without accel and with it", file=sys.stderr)
        results.append(compare(SUITES[name]))
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        for one in results:
            print(f"{one['distribution']}: without {one['without']}, with {one['with']}")
            for name in one["lost"]:  # type: ignore[attr-defined]
                print(f"  passes only without accel: {name}")
    if arguments.record:
        RECORD.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 1 if any(one["lost"] for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
