"""Probes: whether an implementation really works here, found out in a child process and remembered.

A child serves a whole batch, so that torch is imported once. It may crash, hang, print, fork, run
out of memory or poison its device context: the probe it was at gets the blame, and a new child
takes the rest. What was found is kept on disk by device, driver, toolkit, versions and the probe
itself: the second time costs a millisecond, and several processes at once wait for the first.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import accel
from accel.caching import DiskCache, Entries, default_folder
from accel.distributions import Installed
from accel.errors import AccelError
from accel.machine import Machine
from accel.value import Value
from accel.values import Device, Impl, Note, Probe, as_json

if TYPE_CHECKING:
    from accel.probing.process import Child, Outcome

TRANSIENT_SECONDS = 600.0
"""How long a failure is believed that may have had a passing cause: time, memory, a busy device."""

LOADER_VARIABLES = (
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "TRITON_INTERPRET", "CC"),
    "TORCH_DEVICE_BACKEND_AUTOLOAD",
)
"""Environment variables that decide what a library finds, and so what a probe finds."""

BACKENDS = "torch.backends"
"""The entry points that torch loads with itself, in a probe's child too: whatever brings a device
to torch is among them, though hardly any implementation requires it by name."""

OWN_MODULES = (
    "accel.probing.child",
    "accel.probes.measuring",
    "accel.probes.quantised",
    "accel.probes.jit",
)
"""What accel's probes are made of beside the module that a Probe names."""

_DISTRIBUTION = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")


class ProbeResult(Value, kw_only=False):
    """`detail` is a line for people: what was measured, or why it failed. `seconds` of the run."""

    passed: bool
    detail: str
    seconds: float
    cached: bool


NOT_HERE = ProbeResult(
    False, f"probes need a POSIX system, not {os.name}; ACCEL_PROBE=0 does without", 0.0, False
)


class Prober:
    """Probes implementations on one device of this machine.

    `progress` gets a line for each probe that has to be run. `notes` tells what kept results from
    being remembered. Raises AccelError for a machine that is not here.
    """

    preload: Sequence[str] = ("torch",)
    """What a child imports before its first probe, outside the probes' own time limits."""

    startup_seconds: float = 180.0
    """Time limit for that: torch and a vendor's backend from a cold network disk take a minute."""

    def __init__(
        self,
        device: Device,
        machine: Machine,
        *,
        cache_dir: Path | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        if not machine.is_here:
            raise AccelError(
                f"nothing can be probed on {machine.name}, which is not the machine this runs on",
                remedy="resolve a recorded machine without probes",
            )
        self._device = device
        self._machine = machine
        self._progress = progress or (lambda line: None)
        self._cache = DiskCache(default_folder(machine.env) if cache_dir is None else cache_dir)

    @property
    def notes(self) -> tuple[Note, ...]:
        return self._cache.notes

    def __call__(self, impls: Sequence[Impl]) -> dict[str, ProbeResult]:
        """A result for each `feature:name`; implementations that have no probe are left out."""
        results: dict[str, ProbeResult] = {}
        keys: dict[str, str] = {}
        first: dict[str, Impl] = {}
        for impl in impls:
            if impl.probe is None:
                continue
            name = f"{impl.feature.value}:{impl.name}"
            try:
                keys[name] = self._key(impl, impl.probe)
            except (TypeError, ValueError) as error:
                results[name] = ProbeResult(
                    False, f"its probe's arguments are not plain data: {error}", 0.0, False
                )
            else:
                first.setdefault(keys[name], impl)
        found = self._find(first)
        return {**results, **{name: found[key] for name, key in keys.items()}}

    def _find(self, wanted: Mapping[str, Impl]) -> dict[str, ProbeResult]:
        """By key: what is remembered, and what has to be found out."""
        name = f"probes-{self._device_key()}"
        found = _remembered(self._cache.load(name), wanted)
        missing = {key: impl for key, impl in wanted.items() if key not in found}
        if not missing:
            return found
        if os.name != "posix":
            return {**found, **dict.fromkeys(missing, NOT_HERE)}
        limit = self.startup_seconds + sum(_limit(impl) for impl in missing.values())
        with self._cache.lock(name, limit, self._tell_of_waiting):
            found.update(_remembered(self._cache.load(name), missing))
            missing = {key: impl for key, impl in missing.items() if key not in found}
            for key, outcome in self._run(missing):
                found[key] = ProbeResult(outcome.passed, outcome.detail, outcome.seconds, False)
                self._cache.update(name, {key: _entry(outcome)})
        return found

    def _run(self, missing: Mapping[str, Impl]) -> Iterator[tuple[str, Outcome]]:
        """Run them in order, in one child for as long as it can be used."""
        from accel.probing.process import Child

        child: Child | None = None
        try:
            for key, impl in missing.items():
                name = f"{impl.feature.value} {impl.name}"
                self._progress(f"probing {name} on {self._device.torch_name} ...")
                if child is None:
                    child = Child()
                    started = child.start(self.preload, self.startup_seconds)
                    if not started.passed:  # it would not for the others either
                        left = list(missing)
                        yield from ((other, started) for other in left[left.index(key) :])
                        return
                outcome = child.ask(self._request(impl), _limit(impl))
                if outcome.spent:
                    child.stop()
                    child = None
                yield key, outcome
        finally:
            if child is not None:
                child.stop()

    def _tell_of_waiting(self) -> None:
        self._progress(f"another process is probing {self._device.torch_name}; waiting for it ...")

    def _request(self, impl: Impl) -> dict[str, Any]:
        probe = impl.probe
        assert probe is not None
        return {
            "function": probe.function,
            "device": self._device.torch_name,
            "arguments": as_json(probe.arguments),
        }

    def _device_key(self) -> str:
        device = self._device
        parts = (
            device.vendor,
            device.arch,
            device.name,
            device.driver,
            device.toolkit,
            device.kind,
        )
        return _digest(parts)[:24]

    def _key(self, impl: Impl, probe: Probe) -> str:
        version = self._machine.version
        return _digest(
            {
                "function": probe.function,
                "arguments": as_json(probe.arguments),
                "source": source_digest(probe.function.partition(":")[0]),
                "versions": {name: version(name) for name in _distributions(impl.requires)},
                **self._surroundings,
            }
        )

    @functools.cached_property
    def _surroundings(self) -> dict[str, Any]:
        """What every outcome depends on. The interpreter's place tells environments apart."""
        return {
            "accel": accel.__version__,
            "own": [source_digest(name) for name in OWN_MODULES],
            "python": self._machine.platform().python,
            "prefix": sys.prefix,
            "loader": [self._machine.env(name) for name in LOADER_VARIABLES],
            "backends": {
                entry.distribution: self._machine.version(entry.distribution)
                for entry in Installed().entry_points(BACKENDS)
            },
            **(
                {"simulated": [self._machine.name, self._machine.fingerprint]}
                if self._machine.simulated
                else {}
            ),
        }


def _limit(impl: Impl) -> float:
    return impl.probe.seconds if impl.probe is not None else 0.0


def source_digest(module: str) -> str:
    """SHA-256 of a module's source, found without importing it; empty where it has none."""
    path = _source_path(module)
    if path is None:
        return ""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return _file_digest(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=256)
def _file_digest(path: str, mtime_ns: int, size: int) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


@functools.cache
def _source_path(module: str) -> str | None:
    """Where `module` would be imported from. Its packages are looked through, not imported."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if loaded:
        return str(loaded)
    top, *rest = module.split(".")
    name = top
    try:
        spec = importlib.util.find_spec(top)
        for part in rest:
            if spec is None or spec.submodule_search_locations is None:
                return None
            name = f"{name}.{part}"
            spec = importlib.machinery.PathFinder.find_spec(
                name, list(spec.submodule_search_locations)
            )
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None and spec.has_location else None


def _distributions(requires: Sequence[str]) -> list[str]:
    """The names in PEP 508 requirements, and torch, sorted."""
    matches = (_DISTRIBUTION.match(requirement) for requirement in requires)
    return sorted({"torch", *(match.group(1).lower() for match in matches if match)})


def _digest(parts: object) -> str:
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(outcome: Outcome) -> dict[str, Any]:
    return {
        "passed": outcome.passed,
        "detail": outcome.detail,
        "seconds": outcome.seconds,
        "until": time.time() + TRANSIENT_SECONDS if outcome.transient else None,
    }


def _remembered(entries: Entries, wanted: Mapping[str, Impl]) -> dict[str, ProbeResult]:
    """Results for those of `wanted` whose entry is well formed and not too old."""
    found: dict[str, ProbeResult] = {}
    now = time.time()
    for key in wanted:
        entry = entries.get(key, {})
        passed, detail, seconds = (entry.get(name) for name in ("passed", "detail", "seconds"))
        until = entry.get("until", 0)
        # a clock that was set back must not make a passing failure last
        fresh = until is None or (
            isinstance(until, float) and now <= until <= now + TRANSIENT_SECONDS
        )
        if (
            fresh
            and isinstance(passed, bool)
            and isinstance(detail, str)
            and isinstance(seconds, float)
        ):
            found[key] = ProbeResult(passed, detail, float(seconds), True)
    return found
