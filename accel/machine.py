"""The one gate to the machine: all that detection may ask, answered by this one or a recorded one.

Nothing else in accel or its plugins reads `os.environ`, `/proc`, `/sys`, device nodes, a vendor's
query library or the list of installed distributions in order to decide something. So a machine can
be recorded, carried elsewhere and replayed.
"""

from __future__ import annotations

import abc
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from accel.distributions import Installed, canonical
from accel.value import Value

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Answer", "Cpu", "Machine", "Memory", "Pci", "Platform", "ThisMachine", "canonical"]

COMMAND_SECONDS = 5.0
_MAGIC = frozenset("*?[")


class Pci(Value, kw_only=False):
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


class Cpu(Value, kw_only=False):
    """The host processor; `flags` as Linux prints them, `count` of logical processors."""

    model: str
    flags: frozenset[str]
    count: int


class Memory(Value, kw_only=False):
    """Host memory in bytes; None where the system does not say."""

    total: int | None
    available: int | None


class Platform(Value, kw_only=False):
    """`system` as `platform.system()` says it (Linux), `arch` the machine (x86_64, aarch64)."""

    system: str
    arch: str
    python: str


class Answer(Value, kw_only=False):
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

    option: str = ""
    """What a command of accel takes to be about this machine, ` --machine NAME`; empty for the one
    that it runs on."""

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
        return bool(self.glob("".join(f"[{c}]" if c in _MAGIC else c for c in path)))

    def pci_of(self, *vendors: str) -> tuple[Pci, ...]:
        """Graphics cards and accelerators of the given PCI vendors (hexadecimal, no `0x`)."""
        return tuple(
            card
            for card in self.pci()
            if card.vendor in vendors and (card.is_display or card.is_accelerator)
        )


class ThisMachine(Machine):
    """The machine this process runs on.

    What takes long is asked once: PCI, the processor, versions, queries and commands. Variables,
    files and paths are looked at anew each time.
    """

    name = "this machine"
    is_here = True

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}
        self._versions: dict[str, str | None] = {}
        self._printed: dict[tuple[str, ...], str | None] = {}

    def env(self, name: str) -> str | None:
        return os.environ.get(name)

    def read(self, path: str) -> str | None:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except (OSError, ValueError):
            return None

    def glob(self, pattern: str) -> tuple[str, ...]:
        if not _may_match(pattern):
            return ()
        import glob  # with it come re and fnmatch

        return tuple(sorted(glob.glob(pattern)))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

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
        lines = _fields(_beginning("/proc/cpuinfo").partition("\n\n")[0])
        model = lines.get("model name", lines.get("CPU part"))
        return Cpu(
            model=model if model is not None else _processor(),
            flags=frozenset(lines.get("flags", lines.get("Features", "")).split()),
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
        sizes = _fields(text)
        total, available = (_kib(sizes.get(name, "")) for name in ("MemTotal", "MemAvailable"))
        return Memory(total=total, available=available)

    @functools.cached_property
    def _platform(self) -> Platform:
        version = sys.version.split()[0]
        if hasattr(os, "uname"):  # what `platform` asks too, after a longer way
            system = os.uname()
            return Platform(system.sysname, system.machine, version)
        import platform

        return Platform(platform.system(), platform.machine(), version)

    def platform(self) -> Platform:
        return self._platform

    @functools.cached_property
    def _installed(self) -> Installed:
        return Installed()

    def version(self, distribution: str) -> str | None:
        key = canonical(distribution)
        if key not in self._versions:
            self._versions[key] = self._installed.version(key)
        return self._versions[key]

    def distribution_file(self, distribution: str, path: str) -> str | None:
        found = self._installed.file(distribution, path)
        return None if found is None else self.read(found)

    def distributions(self) -> Mapping[str, str]:
        import importlib.metadata

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
        key = tuple(argv)
        if key not in self._printed:
            self._printed[key] = _printed_by(key)
        return self._printed[key]


def _printed_by(argv: Sequence[str]) -> str | None:
    import subprocess  # costs milliseconds, and most machines ask for no command

    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            # a tool may print in a locale's own encoding, and a name that is not readable is no
            # reason to lose the card
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _may_match(pattern: str) -> bool:
    """Whether the folder of the first wildcard has anything that begins as the pattern does."""
    first = min((pattern.index(c) for c in _MAGIC if c in pattern), default=None)
    if first is None or not os.path.isabs(pattern):
        return True
    folder, beginning = os.path.split(pattern[:first])
    try:
        return any(name.startswith(beginning) for name in os.listdir(folder))
    except OSError:
        return False


def _fields(text: str) -> dict[str, str]:
    """The `key : value` lines of a file under /proc; of several with one key, the first."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.rstrip(), value.strip())
    return found


def _kib(text: str) -> int | None:
    """Bytes, of a line such as `16384 kB`."""
    number = text.partition(" ")[0]
    return int(number) * 1024 if number.isdecimal() else None


def _beginning(path: str) -> str:
    """The first 16 KiB: the kernel writes /proc/cpuinfo as it is read, a block a processor."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 14)
    except OSError:
        return ""


def _processor() -> str:
    import platform

    return platform.processor() or platform.machine()


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
