"""A plugin's facts file: what each architecture can do, as data beside the code.

    schema = 1

    [sources]                       # short name -> where it can be looked up
    handbook = "Acme handbook, chapter 3, 2026 edition"

    [implementations.attention.flash_attention_2]   # what holds wherever it can be had
    priority = 60
    requires = ["acme-attn>=2.5.6"]
    probe = { function = "accel.probes:attention_kernel", arguments = { kernel = "..." } }

    [arch.x2]
    family = "second"
    like = "x1"                     # optional: start from another architecture's facts
    memory_model = "discrete"       # any further key is kept in `ArchFacts.extra`

    [arch.x2.attention]             # a table for each Feature: dtype, quant, collective, op too
    flash_attention_2 = { source = "handbook" }
    flash_attention_3 = { unavailable = "why not", source = "..." }

An entry of an architecture overrides the implementation's fields one by one. An implementation
that an architecture does not name does not exist there.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from accel import toml
from accel.contract import brief, misfit
from accel.errors import PluginContractError
from accel.value import Value, field_names
from accel.values import Feature, Impl, Probe

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

_FIELDS = frozenset(field_names(Impl)) - {"feature", "name", "owner"}
_FEATURES = {feature.value: feature for feature in Feature}


class ArchFacts(Value, kw_only=False):
    """What a facts file says of one architecture."""

    arch: str
    family: str
    impls: tuple[Impl, ...]
    extra: Mapping[str, Any]


class _Archs(Mapping[str, ArchFacts]):
    """Architectures by name, each made up when it is first asked for: a machine has one or two."""

    def __init__(self, names: Mapping[str, Any], make: Callable[[str], ArchFacts]) -> None:
        self._names = names
        self._make = functools.cache(make)

    def __getitem__(self, name: str) -> ArchFacts:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Facts(Value, kw_only=False):
    """A facts file, read. What it says of an architecture is checked when that is asked for."""

    origin: str
    sources: Mapping[str, str]
    archs: Mapping[str, ArchFacts]
    extra: Mapping[str, Any]

    def arch(self, name: str) -> ArchFacts | None:
        """What is said of one architecture, or None. Raises PluginContractError as parsing does."""
        return self.archs.get(name)


@functools.cache
def load_facts(package: str, resource: str = "facts.toml") -> Facts:
    """Read `resource` of an importable `package`; read once a process.

    Raises PluginContractError where the file is not as the module's docstring draws it; what is
    wrong with one architecture only when that is asked for.
    """
    data = package_data(package, resource)
    if data is None:
        raise PluginContractError(f"{package} has no {resource} that can be read")
    return _facts(data.decode("utf-8"), f"{package}/{resource}")


def package_data(package: str, resource: str) -> bytes | None:
    """A file of an importable package, or None: `pkgutil.get_data` without its import."""
    __import__(package)
    module = sys.modules[package]
    loader: Any = getattr(module.__spec__, "loader", None)
    file = getattr(module, "__file__", None)
    if file is None or not hasattr(loader, "get_data"):
        return None
    try:
        data: bytes = loader.get_data(os.path.join(os.path.dirname(file), *resource.split("/")))
    except OSError:
        return None
    return data


def parse_facts(text: str, origin: str) -> Facts:
    """Facts from the text of a file, all of them checked; `origin` is what errors call it.

    For a plugin's own tests: `load_facts` checks what it is asked for. Raises PluginContractError.
    """
    facts = _facts(text, origin)
    for name, arch in facts.archs.items():
        for impl in arch.impls:
            problem = misfit(impl)
            if problem is not None:
                where = f"{origin}: arch.{name}.{impl.feature.value}.{impl.name}"
                raise PluginContractError(f"{where} is not as it should be", found=problem)
    return facts


def _facts(text: str, origin: str) -> Facts:
    try:
        document = toml.loads(text)
    except ValueError as error:
        raise PluginContractError(f"{origin} is not valid TOML", found=str(error)) from None
    if document.get("schema") != 1:
        raise PluginContractError(
            f"{origin} has an unknown schema",
            found=repr(document.get("schema")),
            remedy="schema = 1",
        )
    sources = document.get("sources", {})
    common = document.get("implementations", {})
    raw = document.get("arch", {})
    for key, table in (("sources", sources), ("implementations", common), ("arch", raw)):
        if not isinstance(table, dict):
            raise PluginContractError(f"{origin}: [{key}] must be a table", found=brief(table))
    for key in common:
        if key not in _FEATURES:
            raise _no_feature(f"{origin}: implementations.{key}", key)
    archs = _Archs(raw, lambda name: _arch(name, raw, common, sources, origin))
    known = {"schema", "sources", "implementations", "arch"}
    extra = {key: value for key, value in document.items() if key not in known}
    return Facts(origin, MappingProxyType(sources), archs, MappingProxyType(extra))


def _inherited(name: str, raw: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """An architecture's table with `like` followed: tables merged, other keys overridden."""
    chain: list[str] = []
    step: str | None = name
    while step is not None:
        if step in chain or step not in raw:
            raise PluginContractError(f"{origin}: arch.{name} is like {step!r}, which cannot be")
        chain.append(step)
        step = raw[step].get("like")
    merged: dict[str, Any] = {}
    for link in reversed(chain):
        for key, value in raw[link].items():
            if isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = {**merged[key], **value}
            else:
                merged[key] = value
    merged.pop("like", None)
    return merged


def _arch(
    name: str,
    raw: Mapping[str, Any],
    common: Mapping[str, Any],
    sources: Mapping[str, str],
    origin: str,
) -> ArchFacts:
    try:
        return _read_arch(name, raw, common, sources, origin)
    except (TypeError, AttributeError, ValueError) as error:  # a value where a table should be
        raise PluginContractError(
            f"{origin}: arch.{name} is not as it should be", found=str(error)
        ) from error


def _read_arch(
    name: str,
    raw: Mapping[str, Any],
    common: Mapping[str, Any],
    sources: Mapping[str, str],
    origin: str,
) -> ArchFacts:
    table = _inherited(name, raw, origin)
    impls = [
        _impl(
            _FEATURES[key], entry, {**common.get(key, {}).get(entry, {}), **fields}, sources, where
        )
        for key, value in table.items()
        if key in _FEATURES
        for entry, fields in value.items()
        for where in (f"{origin}: arch.{name}.{key}.{entry}",)
    ]
    extra = {key: value for key, value in table.items() if key not in _FEATURES and key != "family"}
    entries = {entry for implementations in common.values() for entry in implementations}
    for key, value in extra.items():
        # the plugin's own, unless it can only be meant for a feature
        if isinstance(value, dict) and not entries.isdisjoint(value):
            raise _no_feature(f"{origin}: arch.{name}.{key}", key)
    return ArchFacts(name, str(table.get("family", "")), tuple(impls), MappingProxyType(extra))


def _no_feature(where: str, name: str) -> PluginContractError:
    return PluginContractError(
        f"{where} lists implementations of a feature that there is not",
        found=name,
        remedy=f"one of: {', '.join(_FEATURES)}",
    )


def _impl(
    feature: Feature,
    name: str,
    fields: dict[str, Any],
    sources: Mapping[str, str],
    where: str,
) -> Impl:
    unknown = sorted(set(fields) - _FIELDS)
    if unknown:
        raise PluginContractError(
            f"{where} has a field that is not known",
            found=", ".join(unknown),
            remedy=f"one of: {', '.join(sorted(_FIELDS))}",
        )
    if fields.get("source") and fields["source"] not in sources:
        raise PluginContractError(
            f"{where} names a source that [sources] lacks: {fields['source']}"
        )
    requires = fields.get("requires", [])
    if not isinstance(requires, list):  # of a text, tuple() would make requirements of one letter
        raise PluginContractError(
            f"{where}: requires must be a list", found=brief(requires), remedy='requires = ["..."]'
        )
    probe = fields.get("probe")
    return Impl(
        **{
            **fields,
            "feature": feature,
            "name": name,
            "requires": tuple(requires),
            "probe": Probe(**probe) if probe else None,
            "source": sources.get(fields.get("source", ""), ""),
        }
    )
