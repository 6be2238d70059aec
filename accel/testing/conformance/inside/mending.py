"""Inside, for patch.undo: every binding of every module, by identity, before and after."""

from __future__ import annotations

import functools
import importlib
import os
import random
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from accel import pipeline
from accel.guarding import guarded
from accel.loading import Plugins
from accel.machine import Machine, ThisMachine
from accel.patching import Entry, Journal, importing
from accel.recording import load
from accel.resolving import Capabilities
from accel.testing import machine_files
from accel.testing.conformance.inside.loading import candidate
from accel.values import Patch

ROUNDS = 2
ORDERS = 3
_IMPORT_SECONDS = 300.0

Print = dict[tuple[str, ...], Any]


def undo(name: str, distribution: str) -> Iterator[dict[str, Any]]:
    """A case for each patch alone, and one for each order of all of them."""
    warnings.simplefilter("ignore")
    here = ThisMachine()
    plugins = Plugins([candidate(name, distribution)], refused=())
    groups = _patches(plugins, here)
    _mend(Plugins(refused={name}), here)
    modules = sorted({patch.module for group in groups for patch in group if patch.environ is None})
    for module in modules:
        yield {"tell": f"importing {module}"}
        _import(module)
    if any(importing.finished(module) is None for module in modules):
        # Its own repairs may be what lets the library in.
        journal = _mend(plugins, here)
        for module in modules:
            _import(module)
        journal.revert()
    alone: dict[str, Patch] = {}
    for group in groups:
        alone.update({patch.target: patch for patch in group if patch.target not in alone})
    for target, patch in sorted(alone.items()):
        yield {"tell": f"applying {target}"}
        yield {"case": target, **_round([patch], None, here)}
    longest = max(groups, key=len, default=[])
    if len(longest) > 1:
        for seed in range(ORDERS):
            yield {"case": f"all in order {seed + 1}", **_round(longest, seed, here)}


def _import(module: str) -> None:
    guarded([functools.partial(importlib.import_module, module)], _IMPORT_SECONDS)


def _mend(known: Plugins, here: Machine) -> Journal:
    """What these plugins mend on this machine is in force: without it a library may not even be
    importable.
    """
    everyone = Plugins(refused=())
    device = pipeline.detect(everyone, here)[-1]
    capabilities = Capabilities(device, pipeline.impls_of(everyone, device, here), here)
    answers = known.call("accel_patches", device=device, capabilities=capabilities, machine=here)
    journal = Journal()
    journal.apply(pipeline.patches_of(known, answers), version=here.version)
    return journal


def _patches(plugins: Plugins, here: Machine) -> list[list[Patch]]:
    """What the plugin wants to mend, for each sort of device there is on any machine."""
    others = Plugins(refused=())
    machines = [here, *(load(file) for file in machine_files().values())]
    groups: dict[tuple[str, ...], list[Patch]] = {}
    for machine in machines:
        for device in pipeline.detect(others, machine):
            capabilities = Capabilities(device, pipeline.impls_of(others, device, machine), machine)
            answers = plugins.call(
                "accel_patches", device=device, capabilities=capabilities, machine=machine
            )
            found = pipeline.patches_of(plugins, answers)
            if found:
                groups.setdefault((device.kind, *(p.target for p in found)), found)
    return list(groups.values())


def _round(patches: Sequence[Patch], seed: int | None, here: Machine) -> dict[str, Any]:
    """Apply and undo, twice; in one journal, or one for each patch undone in another order."""
    before, environ = _fingerprint(), dict(os.environ)
    first: list[Entry] = []
    for turn in range(ROUNDS):
        entries = _apply_and_revert(patches, None if seed is None else seed + turn * ORDERS, here)
        failed = [e for e in entries if e.state == "failed"]
        if failed:
            return _no("; ".join(f"{e.patch.target}: {e.detail}" for e in failed[:3]))
        after = dict(os.environ)
        packages = {patch.module.partition(".")[0] for patch in patches}
        changed = _changed(before, _fingerprint(), packages) + [
            f"os.environ[{name}]"
            for name in sorted(environ.keys() | after.keys())
            if environ.get(name) != after.get(name)
        ]
        if changed:
            times = "once" if turn == 0 else "twice"
            return _no(f"undone {times}, and not as before: {', '.join(changed[:5])}")
        states = {e.patch.target: e.state for e in entries}
        if first and states != {e.patch.target: e.state for e in first}:
            return _no("the second time other patches could be applied than the first time")
        first = first or entries
    applied = [entry for entry in first if entry.state == "applied"]
    if not applied:
        why = "; ".join(sorted({f"{e.state}: {e.detail}" for e in first}))
        return {"status": "skipped", "detail": why or "its target is not here"}
    also = sum(len(entry.also) for entry in applied)
    return {
        "status": "passed",
        "detail": f"{len(applied)} of {len(patches)} applied, {also} copied names followed",
    }


def _no(detail: str) -> dict[str, Any]:
    return {"status": "failed", "detail": detail}


def _apply_and_revert(patches: Sequence[Patch], seed: int | None, here: Machine) -> list[Entry]:
    """What became of each patch when it was applied. The rest of `also` is what followed it."""
    if seed is None:
        journal = Journal()
        journal.apply(patches, version=here.version)
        entries = list(journal.entries)
        journal.revert()
        return entries + [e for e in journal.entries if e.state == "failed"]
    shuffled = random.Random(seed)  # noqa: S311 - an order that can be repeated
    journals = [Journal() for _ in patches]
    order = list(zip(journals, patches, strict=True))
    shuffled.shuffle(order)
    for journal, patch in order:
        journal.apply([patch], version=here.version)
    entries = [entry for journal in journals for entry in journal.entries]
    shuffled.shuffle(order)
    for journal, _ in order:
        journal.revert()
    return entries + [e for j in journals for e in j.entries if e.state == "failed"]


def _fingerprint() -> Print:
    """Every top-level binding of every module, and of the classes defined in it."""
    found: Print = {}
    for name, module in list(sys.modules.items()):
        if not isinstance(module, types.ModuleType) or name.startswith("accel."):
            continue
        for key, value in list(vars(module).items()):
            found[name, key] = value
            # by type() and vars(): a lazy value imports half a library when it is asked for more
            if issubclass(type(value), type) and vars(value).get("__module__") == name:
                for inner, item in list(vars(value).items()):
                    found[name, key, inner] = item
            elif type(value) is dict and key != "__builtins__" and len(value) < 2000:
                for inner, item in list(value.items()):
                    if isinstance(inner, str):
                        found[name, key, f"[{inner}]"] = item
    return found


def _changed(before: Print, after: Print, packages: set[str]) -> list[str]:
    """Names that are bound to something else, or are new or gone; caches of modules left out.

    Modules that came in between are no trace of the patch itself, and are not looked at; nor is
    what their import added to packages that are not patched.
    """
    known = {key[0] for key in before if key[0].partition(".")[0] in packages}
    keys = before.keys() | {key for key in after if key[0] in known}
    missing = object()
    return sorted(
        ".".join(key)
        for key in keys
        if before.get(key, missing) is not after.get(key, missing)
        and not _is_cache(key)
        and not _is_import(key, before.get(key, missing), after.get(key, missing))
    )


def _is_import(key: tuple[str, ...], before: Any, after: Any) -> bool:
    """A submodule that came in between, as its package's attribute; and Python's list of finders,
    which is another list with the same finders after accel has waited for an import.
    """
    if isinstance(after, types.ModuleType) and sys.modules.get(".".join(key)) is after:
        return True
    return key == ("sys", "meta_path") and list(before) == list(after)


def _is_cache(key: tuple[str, ...]) -> bool:
    return any(part.startswith("__") for part in key[1:])
