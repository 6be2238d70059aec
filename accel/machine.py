"""The one gate to the machine: all that detection may ask, answered by this one or a recorded one.

Nothing else in accel or its plugins reads `os.environ`, `/proc`, `/sys`, device nodes, a vendor's
query library or the list of installed distributions in order to decide something. So a machine can
be recorded, carried elsewhere and replayed.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import glob
import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Pci:
    """A PCI function; ids as lower-case hexadecimal without `0x`, `class_id` with six digits."""

    address: str
    vendor: str
    device: str
    class_id: str
    driver: str | None = None

    @property
    def is_display(self) -> bool:
        """PCI base class 03 (a graphics card, also most compute cards)."""
        return self.class_id.startswith("03")

    @property
    def is_accelerator(self) -> bool:
        """PCI base class 12 (processing accelerators)."""
        return self.class_id.startswith("12")


@dataclasses.dataclass(frozen=True)
class Cpu:
    """The host processor; `flags` as Linux prints them, `count` of logical processors."""

    model: str
    flags: frozenset[str]
    count: int


@dataclasses.dataclass(frozen=True)
class Memory:
    """Host memory in bytes; None where the system does not say."""

    total: int | None
    available: int | None


@dataclasses.dataclass(frozen=True)
class Platform:
    """`system` as `platform.system()` says it (Linux), `arch` the machine (x86_64, aarch64)."""

    system: str
    arch: str
    python: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a vendor's query gave: `value`, plain data fit for JSON, or the `error` it raised."""

    value: Any = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


class Machine(abc.ABC):
    """What can be asked of a machine. No answer needs torch, a device context, or privileges."""

    name: str
    is_here: bool
    """Whether this is the machine the process runs on, so that probes mean something."""

    simulated: bool = False
    """Whether its devices only stand in for real ones: what a probe says is then no measurement."""

    fingerprint: str = ""
    """Of a simulated machine: changes with what simulates it, so that no old probe is believed."""

    @abc.abstractmethod
    def env(self, name: str) -> str | None:
        """An environment variable."""

    @abc.abstractmethod
    def read(self, path: str) -> str | None:
        """The text of a small file under /proc, /sys, /etc and the like; None if unreadable."""

    @abc.abstractmethod
    def glob(self, pattern: str) -> tuple[str, ...]:
        """Existing paths that match, sorted: device nodes, toolkit folders."""

    @abc.abstractmethod
    def pci(self) -> tuple[Pci, ...]:
        """Every PCI function, in the order of addresses."""

    @abc.abstractmethod
    def cpu(self) -> Cpu:
        """The host processor."""

    @abc.abstractmethod
    def memory(self) -> Memory:
        """Host memory."""

    @abc.abstractmethod
    def platform(self) -> Platform:
        """Operating system, processor architecture and Python."""

    @abc.abstractmethod
    def version(self, distribution: str) -> str | None:
        """The version of an installed distribution, by any spelling of its name."""

    @abc.abstractmethod
    def distribution_file(self, distribution: str, path: str) -> str | None:
        """The text of a file that an installed distribution brought, `path` as in its RECORD."""

    @abc.abstractmethod
    def distributions(self) -> Mapping[str, str]:
        """Every installed distribution and its version; slow, for records and diagnosis."""

    @abc.abstractmethod
    def query(self, name: str, ask: Callable[[], Any]) -> Answer:
        """A vendor's own library. A real machine calls `ask` at most once for each `name`."""

    @abc.abstractmethod
    def command(self, argv: Sequence[str]) -> str | None:
        """What a vendor's tool prints, or None where it is missing, fails or takes over 5 s."""

    def exists(self, path: str) -> bool:
        return bool(self.glob(glob.escape(path)))

    def pci_of(self, *vendors: str) -> tuple[Pci, ...]:
        """Graphics cards and accelerators of the given PCI vendors (hexadecimal, no `0x`)."""
        return tuple(
            card
            for card in self.pci()
            if card.vendor in vendors and (card.is_display or card.is_accelerator)
        )


def canonical(distribution: str) -> str:
    """A distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """What an installed distribution calls itself, read without parsing all of its metadata.

    The email parser behind `Distribution.version` takes milliseconds for a long description.
    """
    text = distribution.read_text("METADATA") or ""
    name = re.search(r"^Name:\s*(\S+)", text, re.MULTILINE)
    version = re.search(r"^Version:\s*(\S+)", text, re.MULTILINE)
    if name and version:
        return name.group(1), version.group(1)
    return distribution.metadata["Name"] or "", distribution.version


class ThisMachine(Machine):
    """The machine this process runs on. Every answer is kept, so asking twice costs nothing."""

    name = "this machine"
    is_here = True

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}
        self._versions: dict[str, str | None] = {}

    def env(self, name: str) -> str | None:
        return os.environ.get(name)

    def read(self, path: str) -> str | None:
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def glob(self, pattern: str) -> tuple[str, ...]:
        return tuple(sorted(glob.glob(pattern)))

    @functools.cached_property
    def _pci(self) -> tuple[Pci, ...]:
        folder = "/sys/bus/pci/devices"
        try:
            addresses = sorted(os.listdir(folder))
        except OSError:
            return ()
        return tuple(_read_pci(folder, address) for address in addresses)

    def pci(self) -> tuple[Pci, ...]:
        return self._pci

    @functools.cached_property
    def _cpu(self) -> Cpu:
        text = self.read("/proc/cpuinfo") or ""
        flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
        model = re.search(r"^(?:model name|CPU part)\s*:\s*(.*)$", text, re.MULTILINE)
        return Cpu(
            model=model.group(1).strip() if model else platform.processor() or platform.machine(),
            flags=frozenset(flags.group(1).split()) if flags else frozenset(),
            count=os.cpu_count() or 1,
        )

    def cpu(self) -> Cpu:
        return self._cpu

    def memory(self) -> Memory:
        text = self.read("/proc/meminfo")
        if text is None:
            import psutil

            host = psutil.virtual_memory()
            return Memory(total=host.total, available=host.available)
        kib = {key: int(value) for key, value in re.findall(r"^(\w+):\s+(\d+)", text, re.MULTILINE)}
        total, available = kib.get("MemTotal"), kib.get("MemAvailable")
        return Memory(
            total=None if total is None else total * 1024,
            available=None if available is None else available * 1024,
        )

    def platform(self) -> Platform:
        return Platform(platform.system(), platform.machine(), platform.python_version())

    def version(self, distribution: str) -> str | None:
        key = canonical(distribution)
        if key not in self._versions:
            try:
                found = importlib.metadata.distribution(distribution)
            except importlib.metadata.PackageNotFoundError:
                self._versions[key] = None
            else:
                self._versions[key] = name_and_version(found)[1]
        return self._versions[key]

    def distribution_file(self, distribution: str, path: str) -> str | None:
        try:
            found = importlib.metadata.distribution(distribution)
        except importlib.metadata.PackageNotFoundError:
            return None
        return self.read(str(found.locate_file(path)))

    def distributions(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for item in importlib.metadata.distributions():
            name = item.metadata["Name"]
            if name:
                found.setdefault(canonical(name), item.version)
        return dict(sorted(found.items()))

    def query(self, name: str, ask: Callable[[], Any]) -> Answer:
        if name not in self._answers:
            try:
                self._answers[name] = Answer(ask())
            except Exception as error:  # noqa: BLE001 - whatever a vendor's library raises is the answer
                self._answers[name] = Answer(error=f"{type(error).__name__}: {error}")
        return self._answers[name]

    def command(self, argv: Sequence[str]) -> str | None:
        import subprocess  # costs milliseconds, and most machines ask for no command

        try:
            done = subprocess.run(
                list(argv),
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None


def _read_pci(folder: str, address: str) -> Pci:
    def number(name: str) -> str:
        try:
            with open(f"{folder}/{address}/{name}", encoding="ascii") as file:
                return file.read().strip().removeprefix("0x")
        except OSError:
            return ""

    try:
        driver: str | None = os.path.basename(os.readlink(f"{folder}/{address}/driver"))
    except OSError:
        driver = None
    return Pci(address, number("vendor"), number("device"), number("class"), driver)
