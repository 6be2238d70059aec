"""Recorded machines: a machine's answers as JSON, to be carried elsewhere and asked again.

`record` asks this machine what detection asks, keeps every answer, and takes out what is private
(`scrubbing`). `load` and `parse` read such a document strictly (`form`): a mistake in it is named
by its place. Everything but `schema` may be left out, and is absent then.

    {"schema": "accel-machine/1", "title": "...",
     "kind": "reading",                      or "composed": put together from documented facts
     "sources": {"pci": "..."},              where each part comes from
     "platform": {"system": "Linux", "arch": "aarch64", "python": "3.12.3"},
     "env": {"NAME": "value"},
     "memory": {"total": 137438953472, "available": null},                            bytes
     "cpu": {"model": "...", "flags": ["..."], "count": 20},
     "pci": [{"address": "000f:01:00.0", "vendor": "1234", "device": "2e12",
              "class_id": "030200", "driver": "..."}],
     "paths": ["/dev/..."],                  what glob() and exists() find
     "files": {"/proc/...": "text"},
     "queries": {"name": {"value": ...}},    or {"error": "..."}
     "commands": {"tool argument": "text"},
     "distributions": {"torch": "2.11.0"},
     "distribution_files": {"torch:torch/version.py": "text"}}
"""

from __future__ import annotations

import fnmatch
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NoReturn

from accel.errors import InputError
from accel.machine import Answer, Cpu, Machine, Memory, Pci, Platform, canonical
from accel.recording.form import DEEPEST, SCHEMA, check
from accel.recording.scrubbing import Scrubber
from accel.values import EMPTY, as_json

LARGEST = 16 * 2**20
"""Bytes. A recording has some 20 kB; a file far larger is something else."""
_STANDING_FILES = (("torch", "torch/version.py"),)
_NO_FACT = re.compile(r"ACCEL_|LOCAL_RANK$")
"""Environment variables that are a user's choice for one run, and no fact of the machine."""


class RecordedMachine(Machine):
    """A machine that answers from a recording. What was not recorded is absent there.

    `kind` is `reading` (recorded on a real machine) or `composed` (put together from documented
    facts, each part with its source in `sources`).
    """

    is_here = False

    def __init__(self, document: Mapping[str, Any], name: str) -> None:
        """`document` must be valid: `parse` is the way to get one of these."""
        self.name = name
        self.option = _option(name)
        self.title: str = document.get("title", name)
        self.kind: str = document.get("kind", "reading")
        self.sources: Mapping[str, str] = MappingProxyType(dict(document.get("sources", EMPTY)))
        self._document = document
        self._versions = {
            canonical(key): value for key, value in document.get("distributions", EMPTY).items()
        }
        self._pci = tuple(
            sorted((Pci(**card) for card in document.get("pci", ())), key=lambda pci: pci.address)
        )

    def env(self, name: str) -> str | None:
        return self._text("env", name)

    def read(self, path: str) -> str | None:
        return self._text("files", path)

    def glob(self, pattern: str) -> tuple[str, ...]:
        matches = _matcher(pattern)
        return tuple(path for path in self._paths if matches(path))

    def pci(self) -> tuple[Pci, ...]:
        return self._pci

    def cpu(self) -> Cpu:
        cpu = self._document.get("cpu", EMPTY)
        return Cpu(cpu.get("model", ""), frozenset(cpu.get("flags", ())), cpu.get("count", 1))

    def memory(self) -> Memory:
        memory = self._document.get("memory", EMPTY)
        return Memory(memory.get("total"), memory.get("available"))

    def platform(self) -> Platform:
        platform = self._document.get("platform", EMPTY)
        return Platform(*(platform.get(key, "") for key in ("system", "arch", "python")))

    def version(self, distribution: str) -> str | None:
        return self._versions.get(canonical(distribution))

    def distribution_file(self, distribution: str, path: str) -> str | None:
        return self._text("distribution_files", f"{canonical(distribution)}:{path}")

    def distributions(self) -> Mapping[str, str]:
        return dict(sorted(self._versions.items()))

    def query(self, name: str, ask: Callable[[], Any]) -> Answer:
        answer = self._document.get("queries", EMPTY).get(name)
        return Answer(error="not recorded") if answer is None else Answer(**answer)

    def command(self, argv: Sequence[str]) -> str | None:
        return self._text("commands", " ".join(argv))

    def _text(self, part: str, key: str) -> str | None:
        text: str | None = self._document.get(part, EMPTY).get(key)
        return text

    @functools.cached_property
    def _paths(self) -> tuple[str, ...]:
        """Recorded paths and files, and the folders that must be there to hold them."""
        named = {*self._document.get("paths", ()), *self._document.get("files", EMPTY)}
        parents = {str(parent) for path in named for parent in PurePosixPath(path).parents}
        return tuple(sorted(named | parents))


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a path matches as `glob.glob` has it: `*` stays in its part and skips dot files."""
    parts = pattern.split("/")

    def matches(path: str) -> bool:
        names = path.split("/")
        return len(names) == len(parts) and all(map(_same, names, parts))

    return matches


def _same(name: str, part: str) -> bool:
    if name.startswith(".") and not part.startswith("."):
        return False
    return fnmatch.fnmatchcase(name, part)


# Recording ------------------------------------------------------------------------------------


class Recorder(Machine):
    """Passes every question on to a machine and keeps the answers."""

    def __init__(self, machine: Machine) -> None:
        self.name = machine.name
        self.option = machine.option
        self.is_here = machine.is_here
        self._machine = machine
        self._kept: dict[str, dict[str, Any]] = {
            part: {}
            for part in ("env", "paths", "files", "queries", "commands", "distribution_files")
        }

    def _keep(self, part: str, key: str, answer: str | None) -> str | None:
        if answer is not None:
            self._kept[part][key] = answer
        return answer

    def env(self, name: str) -> str | None:
        value = self._machine.env(name)
        return value if _NO_FACT.match(name) else self._keep("env", name, value)

    def read(self, path: str) -> str | None:
        return self._keep("files", path, self._machine.read(path))

    def glob(self, pattern: str) -> tuple[str, ...]:
        found = self._machine.glob(pattern)
        self._kept["paths"].update(dict.fromkeys(found))
        return found

    def pci(self) -> tuple[Pci, ...]:
        return self._machine.pci()

    def cpu(self) -> Cpu:
        return self._machine.cpu()

    def memory(self) -> Memory:
        return self._machine.memory()

    def platform(self) -> Platform:
        return self._machine.platform()

    def version(self, distribution: str) -> str | None:
        return self._machine.version(distribution)

    def distribution_file(self, distribution: str, path: str) -> str | None:
        text = self._machine.distribution_file(distribution, path)
        return self._keep("distribution_files", f"{canonical(distribution)}:{path}", text)

    def distributions(self) -> Mapping[str, str]:
        return self._machine.distributions()

    def query(self, name: str, ask: Callable[[], Any]) -> Answer:
        answer = self._machine.query(name, ask)
        kept = {"value": as_json(answer.value)} if answer.ok else {"error": answer.error}
        self._kept["queries"][name] = kept
        return answer

    def command(self, argv: Sequence[str]) -> str | None:
        return self._keep("commands", " ".join(argv), self._machine.command(argv))

    def document(self) -> dict[str, Any]:
        """All that was answered so far and the standing facts, as a recording; not yet scrubbed."""
        # Copied first: a hook that ran out of time may still be asking in its thread.
        kept = {part: dict(answers) for part, answers in self._kept.items()}
        host, platform = self.cpu(), self.platform()
        title = f"{host.model or 'unknown processor'}, {platform.system} {platform.arch}".strip()
        return {
            "schema": SCHEMA,
            "title": getattr(self._machine, "title", title),
            "kind": getattr(self._machine, "kind", "reading"),
            "sources": dict(getattr(self._machine, "sources", {"all": "accel record"})),
            "platform": as_json(platform),
            "env": _sorted(kept["env"]),
            "memory": as_json(self.memory()),
            "cpu": {"model": host.model, "flags": sorted(host.flags), "count": host.count},
            "pci": [as_json(card) for card in self.pci()],
            "paths": sorted(kept["paths"]),
            "files": _sorted(kept["files"]),
            "queries": _sorted(kept["queries"]),
            "commands": _sorted(kept["commands"]),
            "distributions": dict(self.distributions()),
            "distribution_files": _sorted(kept["distribution_files"]),
        }


def _sorted(answers: Mapping[str, Any]) -> dict[str, Any]:
    return dict(sorted(answers.items()))


def record(machine: Machine, ask: Callable[[Machine], object]) -> dict[str, Any]:
    """What `ask(machine)` asked of `machine`, and its standing facts, with nothing private in it.

    Standing are PCI functions, processor, memory, platform, distributions, and what torch says it
    was built for. The result is JSON, and `parse` takes it.
    """
    recorder = Recorder(machine)
    ask(recorder)
    for distribution, path in _STANDING_FILES:
        recorder.distribution_file(distribution, path)
    return Scrubber.of(machine).document(recorder.document())


# Reading --------------------------------------------------------------------------------------


def load(path: str | Path) -> RecordedMachine:
    """The machine recorded in a JSON file. Raises InputError that names the file and the place."""
    origin = str(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the machine file {origin} cannot be read",
            found=getattr(error, "strerror", None) or str(error),
            remedy="accel record --output FILE",
        ) from None
    found = parse_text(raw, origin)
    found.option = _option(origin)
    return found


def _option(spec: str) -> str:
    import shlex

    return f" --machine {shlex.quote(spec)}"


def parse_text(raw: bytes, origin: str) -> RecordedMachine:
    """The machine in a file's bytes; `origin` is what errors call the file."""
    refuse = functools.partial(_refuse, origin)
    if len(raw) > LARGEST:
        refuse("", f"over {LARGEST >> 20} MB", "a recording of some kB")
    try:
        document = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_no_key_twice)
    except UnicodeDecodeError as error:
        refuse("", f"byte {error.start} is not UTF-8", "JSON text")
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
        where = f"line {error.lineno} column {error.colno}"
        refuse(where, f"{'the file ends too early' if cut else error.msg}", "JSON")
    except RecursionError:
        refuse("", "nested too deeply", f"at most {DEEPEST} levels")
    except ValueError as error:
        refuse("", str(error), "JSON")
    return parse(document, origin)


def parse(document: object, origin: str) -> RecordedMachine:
    """A machine from a decoded document; `origin` is its file's name, whose stem names the machine.

    Raises InputError that says where in the document something is not as it must be.
    """
    check(document, functools.partial(_refuse, origin))
    assert isinstance(document, dict)
    return RecordedMachine(document, Path(origin).stem if origin.endswith(".json") else origin)


def _refuse(origin: str, place: str, found: str, wanted: str) -> NoReturn:
    at = f"{place}: " if place else ""
    raise InputError(
        f"{origin} is not a recorded machine: {at}{wanted} is needed there",
        found=found,
        remedy=f"record it again (accel record --output FILE), or mend {place or 'the file'}",
    )


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} is there twice in one object")
    return found
