"""The GPU of Apple's chips, through Metal (torch's `mps`).

There is one, always number 0, in the host's own memory. `sysctl` names the chip and `sw_vers` the
system; the capabilities are in `facts.toml`, by the chip's generation.
"""

from __future__ import annotations

from collections.abc import Iterable

from accel.detecting import Problem, parse_version, torch_problem
from accel.facts import load_facts
from accel.hookspecs import hookimpl
from accel.machine import Machine
from accel.value import replaced
from accel.values import Device, Feature, Impl, Probe

VENDOR = "apple"
PRIORITY = 100
BF16_NEEDS_MACOS = 14
_UNKNOWN = "Apple silicon"
_OLDEST, _NEWEST = "M1", "M5"


@hookimpl
def accel_detect(machine: Machine) -> Iterable[Device]:
    """The chip's GPU, on macOS on Apple's own processors, also where Python is translated."""
    platform = machine.platform()
    if platform.system != "Darwin":
        return []
    translated = platform.arch == "x86_64" and _sysctl(machine, "sysctl.proc_translated") == "1"
    if platform.arch != "arm64" and not translated:
        return []
    arch = chip(_sysctl(machine, "machdep.cpu.brand_string"))
    problem = _rosetta() if translated else _problem(machine)
    return [
        Device(
            vendor=VENDOR,
            name=arch if arch == _UNKNOWN else f"Apple {arch}",
            kind="mps",
            arch=arch,
            family="apple-silicon",
            memory=machine.memory().total,
            memory_model="unified",
            toolkit=_macos(machine),
            priority=PRIORITY,
            problem=problem.problem if problem else None,
            remedy=problem.remedy if problem else None,
        )
    ]


@hookimpl
def accel_capabilities(device: Device, machine: Machine) -> Iterable[Impl]:
    """The facts of the chip's generation, less bfloat16 where the system is too old for it."""
    facts = load_facts(__name__)
    # a chip newer than these facts is at least their newest; one with no name, their oldest
    fallback = _OLDEST if device.arch == _UNKNOWN else _NEWEST
    table = facts.arch(device.arch.partition(" ")[0]) or facts.archs[fallback]
    macos = _macos(machine)
    impls = [_for_system(impl, macos) for impl in table.impls]
    has_bf16 = any(
        impl.name == "bfloat16" and impl.feature is Feature.DTYPE and impl.unavailable is None
        for impl in impls
    )
    return impls if has_bf16 else [_probed_in_float32(impl) for impl in impls]


def chip(brand: str) -> str:
    """`M2 Max` of `Apple M2 Max`; a name that says no generation is `Apple silicon`."""
    import re

    found = re.fullmatch(r"Apple (M[1-9]\d?(?: (?:Pro|Max|Ultra))?)", brand.strip())
    return found.group(1) if found else _UNKNOWN


def _sysctl(machine: Machine, name: str) -> str:
    return (machine.command(["sysctl", "-n", name]) or "").strip()


def _macos(machine: Machine) -> str | None:
    """The system's version, such as 15.1."""
    return (machine.command(["sw_vers", "-productVersion"]) or "").strip() or None


def _major(version: str | None) -> int | None:
    parsed = parse_version(version or "")
    return None if parsed is None else parsed.major


def _rosetta() -> Problem:
    return Problem(
        "this Python is an x86_64 build under Rosetta, for which torch has no Metal",
        "arch -arm64 python3 -m venv arm64-env",
    )


def _problem(machine: Machine) -> Problem | None:
    """Why torch cannot use the GPU: torch missing or too old, or macOS too old for torch."""
    wrong = torch_problem(machine, needs=">=2.5", install="pip install --upgrade torch")
    if wrong is not None:
        return wrong
    torch = parse_version(machine.version("torch") or "")
    system = _major(_macos(machine))
    if torch is None or system is None:
        return None
    for since, row in reversed(load_facts(__name__).extra["macos"].items()):
        first = parse_version(since)
        if first is not None and torch >= first:
            if system >= row["oldest"]:
                return None
            return Problem(
                f"torch {torch} needs macOS {row['oldest']}; this is macOS {_macos(machine)}",
                f"pip install 'torch<{since}'",
            )
    return None


def _for_system(impl: Impl, macos: str | None) -> Impl:
    """bfloat16 came to Metal with macOS 14."""
    major = _major(macos)
    if (impl.feature, impl.name) != (Feature.DTYPE, "bfloat16") or impl.unavailable is not None:
        return impl
    if major is None or major >= BF16_NEEDS_MACOS:
        return impl
    reason = f"Metal has bfloat16 from macOS {BF16_NEEDS_MACOS} on; this is {macos}"
    return replaced(impl, unavailable=reason)


def _probed_in_float32(impl: Impl) -> Impl:
    """What would be proven in bfloat16 is proven in the dtype that will be trained in."""
    if impl.probe is None or impl.probe.arguments.get("dtype") != "bfloat16":
        return impl
    arguments = {**impl.probe.arguments, "dtype": "float32"}
    probe = Probe(function=impl.probe.function, arguments=arguments, seconds=impl.probe.seconds)
    return replaced(impl, probe=probe)
