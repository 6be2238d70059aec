"""Runs the cases of one environment in its Python: without accel, with it, and after revert().

python runner.py ENVIRONMENT  ->  one JSON object on the last line of standard output
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import failure

OK = "ok"
FRAMEWORKS = ("transformers", "peft", "accelerate", "trl", "llamafactory", "deepspeed", "autoawq")


def attempt(body: Callable[[], None]) -> str:
    """`ok`, or the error with its causes."""
    try:
        body()
    except BaseException as error:  # noqa: BLE001 - what it raises is the result
        chain: list[str] = []
        current: BaseException | None = error
        while current is not None:
            chain.append("".join(traceback.format_exception_only(current)).strip())
            current = current.__cause__ or current.__context__
        frames = traceback.extract_tb(error.__traceback__)
        where = " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in frames[-3:])
        return " <- ".join(chain) + f" [{where}]"
    return OK


def standing(having: failure.Having | None) -> tuple[Callable[[], list[str]], Callable[[], None]]:
    """Put accel's repairs in force: by auto(), or for the device described; (notes, undo)."""
    import accel

    if having is None:
        report = accel.auto()
        return lambda: [f"{n.subject}: {n.message}" for n in report.notes], report.revert
    from accel.patching import Journal

    capabilities, machine = described(having)
    journal = Journal()
    # CUDA's names can be made to mean only a device that this torch has
    patches = [p for p in collected(capabilities, machine) if p.target != "torch"]
    journal.apply(patches, version=machine.version)
    failed = [e for e in journal.entries if e.state == "failed"]
    assert not failed, failed
    return (
        lambda: [f"{n.subject}: {n.message}" for n in capabilities.notes],
        lambda: journal.revert() and None,
    )


def described(having: failure.Having) -> tuple[Any, Any]:
    """Capabilities and the machine of a device that is not here."""
    from accel.machine import ThisMachine
    from accel.pipeline import open_machine
    from accel.resolving import Capabilities
    from accel.values import Device, Feature, Impl

    machine = ThisMachine()
    device = Device(
        vendor=having.vendor,
        name="Test Card",
        kind=having.kind,
        arch=having.arch,
        index=having.index,
    )
    have = [
        Impl(feature=feature, name=name, priority=100 - order)
        for feature in (Feature.DTYPE, Feature.ATTENTION, Feature.COLLECTIVE, Feature.OP)
        for order, name in enumerate(getattr(having, feature.value))
    ]
    lack = [
        Impl(feature=Feature.DTYPE, name=name, unavailable=reason)
        for name, reason in having.no_dtype.items()
    ]
    capabilities = Capabilities(device, [*have, *lack], machine)
    recorded = open_machine(_written(having)) if having.machine else machine
    recorded.version = machine.version  # type: ignore[method-assign]  # what is really installed
    return capabilities, recorded


def _written(having: failure.Having) -> Path:
    """The recorded machine with other environment variables, as a file."""
    (found,) = failure.ROOT.glob(f"plugins/*/machines/{having.machine}.json")
    document = json.loads(found.read_text(encoding="utf-8"))
    document["env"] = {**document.get("env", {}), **having.variables}
    path = Path(tempfile.mkdtemp(), found.name)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def collected(capabilities: Any, machine: Any) -> Iterator[Any]:
    """What every plugin would patch for that device."""
    from accel import pipeline

    known = pipeline.loaded_plugins()
    for answer in known.call(
        "accel_patches", device=capabilities.device, capabilities=capabilities, machine=machine
    ):
        yield from answer.value or ()


def main(environment: str) -> None:
    """Every case of that environment, in this process."""
    import os

    os.environ["LLAMAFACTORY_VERBOSITY"] = "ERROR"
    warnings.simplefilter("ignore")
    results: dict[str, dict[str, Any]] = {}
    # torch's device types can be renamed, once, and not back: those cases come last
    for case in sorted(failure.cases(), key=lambda one: one.lasting):
        if case.environment != environment or case.body is None:
            continue
        without = attempt(case.body)
        notes, undo = standing(case.having)
        try:
            repaired = attempt(case.body)
            said = notes()
        finally:
            undo()
        again = attempt(case.body)
        results[case.name] = {
            "without": without,
            "with": repaired,
            "reverted": again,
            "notes": said,
        }
        print(case.name, results[case.name], file=sys.stderr, flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
