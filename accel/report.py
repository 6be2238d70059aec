"""What `auto()` found, chose and changed; and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accel.errors import CapabilityUnavailable
from accel.planning import Plan
from accel.resolving import Capabilities
from accel.values import Device, Feature, Note

if TYPE_CHECKING:
    import torch

    from accel.patching import Entry, Journal


class Report:
    """The result of `auto()`. Prints as text, shows as HTML in a notebook.

    Notes that arise while training (a library asked for something the device lacks) appear in
    `notes` as they happen.
    """

    def __init__(self, plan: Plan, capabilities: Capabilities, journal: Journal) -> None:
        self.plan = plan
        self.capabilities = capabilities
        self._journal = journal
        self._undone: tuple[Note, ...] | None = None

    @property
    def device(self) -> Device:
        return self.plan.device

    @property
    def torch_device(self) -> torch.device:
        """The device as torch has it; imports torch."""
        import torch

        return torch.device(self.device.torch_name)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype to train in; imports torch. CapabilityUnavailable where there is none."""
        import torch

        if self.plan.dtype is None:
            decisions = self.plan.of(Feature.DTYPE)
            raise CapabilityUnavailable(
                f"no dtype can be had on {self.device.name} ({self.device.arch})",
                found=f"{len(decisions)} declared, all of them rejected",
                remedy="accel explain --probe",
                reasons=[f"{d.name}: {d.stage.value}: {d.reason}" for d in decisions],
            )
        dtype = getattr(torch, self.plan.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    @property
    def attention(self) -> str | None:
        """The attention implementation, by the name that model libraries use for it."""
        return self.plan.attention

    @property
    def collective(self) -> str | None:
        """The backend for `torch.distributed.init_process_group`."""
        return self.plan.collective

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What became of each patch."""
        return self._journal.entries

    @property
    def notes(self) -> tuple[Note, ...]:
        """Everything worth saying, run time included."""
        run_time = tuple(note for note in self.capabilities.notes if note not in self.plan.notes)
        return (*self.plan.notes, *run_time, *(self._undone or ()))

    @property
    def reverted(self) -> bool:
        return self._undone is not None

    def revert(self) -> tuple[Note, ...]:
        """Undo every change, by identity; twice is harmless. Says what else had to give way."""
        if self._undone is None:
            self._undone = self._journal.revert()
        return self._undone

    def explain(self, format: str = "text") -> str:  # noqa: A002 - the word users will look for
        """The report as `text`, `markdown`, `html` or `json`; InputError for other formats."""
        from accel import reporting  # most runs print nothing

        return reporting.render(self, format)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        from accel import reporting

        return reporting.as_dict(self.plan, notes=self.notes, entries=self.entries)

    def __str__(self) -> str:
        return self.explain()

    def __repr__(self) -> str:
        plan = self.plan
        state = "reverted" if self.reverted else f"{len(self.entries)} patches"
        return (
            f"<accel.Report {plan.device.torch_name} ({plan.device.name}): {plan.attention}, "
            f"{plan.dtype}, {plan.collective}; {state}>"
        )

    def _repr_html_(self) -> str:
        return self.explain("html")
