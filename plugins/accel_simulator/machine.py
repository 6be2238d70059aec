"""A recorded machine that stands in for this one: its hardware, over what is installed here."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accel import testing
from accel.errors import InputError
from accel.machine import Answer, Cpu, Machine, Memory, Pci, Platform
from accel.recording import RecordedMachine
from accel_simulator.faults import SLOW_SECONDS, Faults
from accel_simulator.naming import Chosen

VISIBLE = {
    "10de": "CUDA_VISIBLE_DEVICES",
    "1d94": "HIP_VISIBLE_DEVICES",
    "1002": "HIP_VISIBLE_DEVICES",
    "19e5": "ASCEND_RT_VISIBLE_DEVICES",
    "cabc": "MLU_VISIBLE_DEVICES",
    "1ed5": "MUSA_VISIBLE_DEVICES",
    "8086": "ZE_AFFINITY_MASK",
}
"""By PCI vendor, the variable by which its own library is told to show fewer devices."""

RECORDED = ("torch",)
"""Distributions whose recorded version counts, though another is installed here: the one that the
vendor's bridge was recorded with."""

NONSENSE = "\x00\x07 0xDEADBEEF --- \x1b[31m"


@functools.cache
def _fingerprint() -> str:
    """Of the simulator's own sources and facts."""
    files = sorted(
        file
        for file in Path(__file__).parent.rglob("*")
        if file.suffix in (".py", ".cpp", ".h", ".toml")
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class SimulatedMachine(Machine):
    """`chosen` as it was recorded; environment and libraries are this process's own.

    A variable that is set here wins over the recorded one. A distribution that is installed here
    counts as what it is; one that is only recorded (a vendor's) counts as recorded.
    """

    is_here = True
    simulated = True

    def __init__(
        self, chosen: Chosen, recorded: RecordedMachine, here: Machine, faults: Faults
    ) -> None:
        self.chosen = chosen
        self.faults = faults
        self.title = recorded.title
        self.name = f"{chosen.spec}, simulated"
        self._recorded = recorded
        self._here = here
        self.fingerprint = _fingerprint()
        self._shown = self._visible()

    @classmethod
    def of(cls, chosen: Chosen, here: Machine, faults: Faults = Faults()) -> SimulatedMachine:  # noqa: B008
        """Raises InputError where the machine has fewer devices than are asked for."""
        return cls(chosen, testing.machine(chosen.machine), here, faults)

    def _visible(self) -> Mapping[str, str]:
        """The variables that leave `count` devices to be seen."""
        if self.chosen.count is None:
            return {}
        # of any PCI class: some vendors' accelerators call themselves otherwise
        names = {VISIBLE[each.vendor] for each in self._recorded.pci() if each.vendor in VISIBLE}
        shown = ",".join(str(index) for index in range(self.chosen.count))
        return dict.fromkeys(names, shown)

    def check_count(self, found: int) -> None:
        """Raises InputError where `found` devices are less than were asked for."""
        wanted, name = self.chosen.count, self.chosen.machine
        if wanted is None or found >= wanted:
            return
        if not found:
            raise InputError(
                f"{name} has no device to simulate",
                found="none that torch could use there, and of a type that is simulated",
                remedy="accel simulate",
            )
        raise InputError(
            f"{name} has no {wanted} devices to simulate",
            found=f"{found} that torch could use",
            remedy=f"accel simulate {name}:{found} -- COMMAND",
        )

    def env(self, name: str) -> str | None:
        here = self._here.env(name)
        if here is not None:
            return here
        return self._shown.get(name, self._recorded.env(name))

    def read(self, path: str) -> str | None:
        return self._recorded.read(path)

    def glob(self, pattern: str) -> tuple[str, ...]:
        return self._recorded.glob(pattern)

    def pci(self) -> tuple[Pci, ...]:
        return self._recorded.pci()

    def cpu(self) -> Cpu:
        return self._recorded.cpu()

    def memory(self) -> Memory:
        return self._recorded.memory()

    def platform(self) -> Platform:
        return self._recorded.platform()

    def version(self, distribution: str) -> str | None:
        recorded = self._recorded.version(distribution)
        if recorded is not None and distribution in RECORDED:
            return recorded
        return self._here.version(distribution) or recorded

    def distribution_file(self, distribution: str, path: str) -> str | None:
        recorded = self._recorded.distribution_file(distribution, path)
        return recorded or self._here.distribution_file(distribution, path)

    def distributions(self) -> Mapping[str, str]:
        recorded = self._recorded.distributions()
        merged = {**recorded, **self._here.distributions()}
        merged.update({name: recorded[name] for name in RECORDED if name in recorded})
        return dict(sorted(merged.items()))

    def query(self, name: str, ask: Callable[[], Any]) -> Answer:
        self._driver_answers()
        if self.faults.driver == "nonsense":
            return Answer(error=f"the driver answered {NONSENSE!r}")
        return self._recorded.query(name, ask)

    def command(self, argv: Sequence[str]) -> str | None:
        said = self._recorded.command(argv)
        if said is None:
            return None
        self._driver_answers()
        return NONSENSE if self.faults.driver == "nonsense" else said

    def _driver_answers(self) -> None:
        if self.faults.driver == "slow":
            time.sleep(SLOW_SECONDS)
