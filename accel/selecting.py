"""Chooses the device: as asked, then `ACCEL_DEVICE`, then a plugin's claim, then priority."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accel.errors import AmbiguousDevice, NoDevice, UnknownDevice, did_you_mean
from accel.machine import Machine
from accel.values import Device, Level, Note

Claim = Callable[[Sequence[Device]], Device | None]


def names_of(device: Device) -> frozenset[str]:
    """Everything a device may be called, in lower case."""
    names = {
        device.torch_name,
        f"{device.kind}:{device.index}",
        device.kind,
        device.vendor,
        device.family,
        device.arch,
        device.owner,
        device.name,
    }
    return frozenset(name.lower() for name in names if name)


def select(
    devices: Sequence[Device], wanted: str | None, machine: Machine, claim: Claim
) -> tuple[Device, tuple[Note, ...]]:
    """The one device to use, and what is worth saying about the choice.

    Raises UnknownDevice, AmbiguousDevice, or NoDevice where the device asked for is there but
    torch cannot use it.
    """
    if not devices:
        raise NoDevice(
            "no device was found, not even the host processor",
            found="no plugin answered for this machine",
            remedy="accel plugins",
        )
    wanted = wanted or machine.env("ACCEL_DEVICE") or None
    if wanted is not None:
        return _named(devices, str(wanted), machine)
    usable = [device for device in devices if device.usable]
    if not usable:
        raise _unusable("no device here can be used by torch", devices, machine)
    claimed = claim(usable)
    chosen, shared = (claimed, []) if claimed else _of_this_rank(_best_first(usable), machine)
    return chosen, (
        *shared,
        *_passed_over(chosen, devices, machine),
        *_alternatives(chosen, usable, claimed),
    )


def _best_first(devices: Sequence[Device]) -> list[Device]:
    return sorted(devices, key=lambda device: (-device.priority, device.kind, device.index))


def _of_this_rank(devices: Sequence[Device], machine: Machine) -> tuple[Device, list[Note]]:
    """Of equal devices, the one that `LOCAL_RANK` says; torchrun starts one process a device.

    A note where there is none of that number. Of a single one nothing is said: some launchers show
    each rank its own device alone.
    """
    first = devices[0]
    rank = machine.env("LOCAL_RANK") or ""
    peers = {d.index: d for d in devices if (d.vendor, d.kind) == (first.vendor, first.kind)}
    own = peers.get(int(rank)) if rank.isdecimal() else first
    if own is not None or len(peers) == 1:
        return own or first, []
    shared = Note(
        level=Level.WARNING,
        subject=f"device {first.torch_name}",
        message=f"LOCAL_RANK is {rank}, and {len(peers)} x {first.name} can be used here: this "
        "rank shares the first of them with another",
        remedy=f"torchrun --nproc-per-node={len(peers)}",
    )
    return first, [shared]


def _named(
    devices: Sequence[Device], wanted: str, machine: Machine
) -> tuple[Device, tuple[Note, ...]]:
    key = wanted.strip().lower()
    matches = [device for device in devices if key in names_of(device)]
    if not matches:
        known = sorted(set().union(*(names_of(device) for device in devices)))
        here = ", ".join(sorted({f"{d.torch_name} ({d.vendor} {d.arch})" for d in devices}))
        raise UnknownDevice(
            f"no device is called {wanted!r}{did_you_mean(key, known)}",
            found=here,
            remedy=f"accel devices{machine.option}",
        )
    usable = [device for device in matches if device.usable]
    if not usable:
        raise _unusable(f"device {wanted!r} is here, but torch cannot use it", matches, machine)
    if len({device.vendor for device in usable}) > 1:
        choices = sorted({device.vendor for device in usable})
        raise AmbiguousDevice(
            f"{wanted!r} is the name of devices of several vendors",
            found=", ".join(choices),
            remedy=f"device={choices[0]!r}",
        )
    ordered = _best_first(usable)
    if ":" in key:
        return ordered[0], ()
    chosen, shared = _of_this_rank(ordered, machine)
    return chosen, tuple(shared)


def _unusable(wanted: str, devices: Sequence[Device], machine: Machine) -> NoDevice:
    first = devices[0]
    return NoDevice(
        wanted,
        found="; ".join(dict.fromkeys(f"{d.name}: {d.problem}" for d in devices)),
        remedy=first.remedy or f"accel doctor{machine.option}",
    )


def _passed_over(chosen: Device, devices: Sequence[Device], machine: Machine) -> list[Note]:
    """Devices that might have been chosen and cannot be used: never silent."""
    lost = [
        d
        for d in devices
        if not d.usable
        and (d.priority > chosen.priority or (d.vendor != chosen.vendor and d.kind != "cpu"))
    ]
    counts: dict[tuple[str, str, str | None, str | None], int] = {}
    for device in lost:
        key = (device.vendor, device.name, device.problem, device.remedy)
        counts[key] = counts.get(key, 0) + 1
    return [
        Note(
            level=Level.WARNING,
            subject=f"device {name}",
            message=f"{count} x {name} ({vendor}) is here, unused: "
            f"{problem}. Going on with {chosen.torch_name} ({chosen.name}).",
            remedy=remedy or f"accel doctor{machine.option}",
        )
        for (vendor, name, problem, remedy), count in counts.items()
    ]


def _alternatives(chosen: Device, usable: Sequence[Device], claimed: Device | None) -> list[Note]:
    others = {
        d.vendor: d
        for d in usable
        if d.vendor != chosen.vendor and d.kind != "cpu" and d.priority > 0
    }
    why = "a plugin claimed it" if claimed else "it has the higher priority"
    return [
        Note(
            level=Level.INFO,
            subject=f"device {chosen.torch_name}",
            message=f"{chosen.name} was chosen over {other.name} ({vendor}): {why}",
            remedy=f"device={vendor!r} chooses the other",
        )
        for vendor, other in sorted(others.items())
    ]
