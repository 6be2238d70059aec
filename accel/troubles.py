"""Troubles a plugin knows, as data beside its code; what is found of them are Findings.

    schema = 1

    [trouble.acme-torch-cpu-only]       # an id, its own in all of accel
    severity = "error"                  # or "warning": works, though badly
    title = "a CPU-only torch beside an Acme card"
    symptom = "AssertionError: Torch not compiled with ACME enabled"    # as the user sees it
    cause = "why that is"
    remedy = "what mends it, in words"
    upstream = "https://..."            # optional: where others have it
    problem = ["is a CPU-only build"]   # optional: parts of a Device's `problem` that this is

The file is `doctor.toml`. A rule (the hook `accel_doctor`) looks at the machine and says where a
trouble is; one that has `problem` needs no rule, since detection has found it already.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Mapping

from accel import toml
from accel.errors import PluginContractError
from accel.facts import package_data
from accel.value import Value, field, field_names
from accel.values import EMPTY

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any, Literal

FILE = "doctor.toml"


class Trouble(Value):
    """A known trouble, whether it is here or not; what a page on troubles is made of."""

    id: str
    severity: Literal["error", "warning"]
    title: str
    symptom: str
    cause: str
    remedy: str
    upstream: str = ""
    problem: tuple[str, ...] = ()

    def found(
        self, subject: str, evidence: str, command: str, *, files: Mapping[str, str] = EMPTY
    ) -> Finding:
        """The Finding that this trouble is here, with what was seen and the command to mend it."""
        return Finding(
            id=self.id,
            severity=self.severity,
            subject=subject,
            evidence=evidence,
            command=command,
            symptom=self.symptom,
            cause=self.cause,
            remedy=self.remedy,
            upstream=self.upstream,
            files=files,
        )


class Finding(Value):
    """Something wrong with a setup: what a rule found, and the one command that mends it.

    `evidence` is what was seen on this machine, `symptom` the text a user meets because of it.
    `command` is applied by `accel doctor --fix` where it is `export NAME=value`, `unset NAME` or
    one of pip's; anything else is left to the user. `files` (name -> text) are written beside the
    file of variables first; `{folder}` in `command` is the folder they are in.
    """

    id: str
    severity: Literal["error", "warning"]
    subject: str
    evidence: str
    command: str
    symptom: str = ""
    cause: str = ""
    remedy: str = ""
    upstream: str = ""
    files: Mapping[str, str] = field(default=EMPTY, hash=False)
    owner: str = ""


@functools.cache
def load_troubles(package: str) -> Mapping[str, Trouble]:
    """The troubles in `doctor.toml` of an importable package, by id; read once a process.

    Raises PluginContractError where the file is not as the module's docstring draws it.
    """
    data = package_data(package, FILE)
    if data is None:
        raise PluginContractError(f"{package} has no {FILE} that can be read")
    return parse_troubles(data.decode("utf-8"), f"{package}/{FILE}")


def parse_troubles(text: str, origin: str) -> Mapping[str, Trouble]:
    """Troubles from the text of a file; `origin` is what errors call it."""
    try:
        document = toml.loads(text)
    except ValueError as error:
        raise PluginContractError(f"{origin} is not valid TOML", found=str(error)) from None
    if document.get("schema") != 1:
        raise PluginContractError(
            f"{origin} has an unknown schema", found=repr(document.get("schema"))
        )
    found: dict[str, dict[str, Any]] = document.get("trouble", {})
    return {name: _trouble(name, fields, origin) for name, fields in found.items()}


def _trouble(id: str, fields: dict[str, Any], origin: str) -> Trouble:  # noqa: A002
    unknown = sorted(set(fields) - set(field_names(Trouble)))
    if unknown or fields.get("severity") not in ("error", "warning"):
        raise PluginContractError(
            f"{origin}: trouble.{id} is not as it should be",
            found=", ".join(unknown) or f"severity = {fields.get('severity')!r}",
            remedy=f"fields: {', '.join(field_names(Trouble)[1:])}; severity error or warning",
        )
    try:
        return Trouble(id=id, **{**fields, "problem": tuple(fields.get("problem", ()))})
    except TypeError as error:
        raise PluginContractError(f"{origin}: {error}: trouble.{id}") from None


def known_troubles(packages: Iterable[str]) -> dict[str, Mapping[str, Trouble]]:
    """The troubles of several packages, by package; those without any are passed over.

    Raises PluginContractError where two packages have one id.
    """
    found = {name: load_troubles(name) for name in packages if has_troubles(name)}
    seen: dict[str, str] = {}
    for package, troubles in found.items():
        for one in troubles:
            if seen.setdefault(one, package) != package:
                raise PluginContractError(
                    f"two packages have a trouble {one}", found=f"{seen[one]} and {package}"
                )
    return found


def has_troubles(package: str) -> bool:
    """Whether an importable package has such a file."""
    __import__(package)
    file = getattr(sys.modules[package], "__file__", None)
    return file is not None and os.path.isfile(os.path.join(os.path.dirname(file), FILE))
