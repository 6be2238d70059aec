"""Recorded machines: a machine's answers as JSON, to be carried elsewhere and asked again.

`record` asks this machine what detection asks, keeps every answer, and takes out what is private
(`accel.scrubbing`). `load` and `parse` read such a document strictly: a mistake in it is named by
its place. The document's form is drawn in `docs/` and kept by `SCHEMA`.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NoReturn

from accel.errors import InputError
from accel.machine import Answer, Cpu, Machine, Memory, Pci, Platform, canonical
from accel.scrubbing import Scrubber
from accel.values import EMPTY, as_json

SCHEMA = "accel-machine/1"
LARGEST = 16 * 2**20
"""Bytes. A recording has some 20 kB; a file far larger is something else."""
DEEPEST = 64
"""Levels of nesting; a vendor's answer has four or five."""

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_STANDING_FILES = (("torch", "torch/version.py"),)


class RecordedMachine(Machine):
    """A machine that answers from a recording. What was not recorded is absent there.

    `kind` is `reading` (recorded on a real machine) or `composed` (put together from documented
    facts, each part with its source in `sources`).
    """

    is_here = False

    def __init__(self, document: Mapping[str, Any], name: str) -> None:
        """`document` must be valid: `parse` is the way to get one of these."""
        self.name = name
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
    """Whether a path matches as `glob.glob` has it: `*` stays within one part, and skips dot files."""
    parts = []
    for part in pattern.split("/"):
        hidden = "" if part.startswith(".") or not re.match(r"[*?\[]", part) else r"(?!\.)"
        parts.append(hidden + _part(part))
    expression = re.compile("/".join(parts), re.DOTALL)
    return lambda path: expression.fullmatch(path) is not None


def _part(part: str) -> str:
    """A regular expression for one part of a glob pattern."""

    def translate(found: re.Match[str]) -> str:
        token = found.group()
        if token == "*":
            return "[^/]*"
        if token == "?":
            return "[^/]"
        if len(token) > 1:
            inner = token[1:-1].replace("\\", r"\\").replace("[", r"\[")
            return f"[^{inner[1:]}/]" if inner.startswith("!") else f"[{inner}]"
        return re.escape(token)

    return re.sub(r"\[!?[^/]\]|\[!?[^/\]][^/\]]*\]|.", translate, part, flags=re.DOTALL)


# Recording ------------------------------------------------------------------------------------


class Recorder(Machine):
    """Passes every question on to a machine and keeps the answers."""

    def __init__(self, machine: Machine) -> None:
        self.name = machine.name
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
        return self._keep("env", name, self._machine.env(name))

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
            remedy="accel record --output FILE makes one; accel explain --machine FILE reads it",
        ) from None
    return parse_text(raw, origin)


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
        end = error.pos >= len(error.doc.rstrip())
        where = f"line {error.lineno} column {error.colno}"
        refuse(where, f"{'the file ends too early' if end else error.msg}", "JSON")
    except RecursionError:
        refuse("", "nested too deeply", f"at most {DEEPEST} levels")
    except ValueError as error:
        refuse("", str(error), "JSON")
    return parse(document, origin)


def parse(document: object, origin: str) -> RecordedMachine:
    """A machine from a decoded document; `origin` is its file's name, whose stem names the machine.

    Raises InputError that says where in the document something is not as it must be.
    """
    refuse = functools.partial(_refuse, origin)
    if not isinstance(document, dict):
        refuse("", type(document).__name__, "an object")
    if document.get("schema") != SCHEMA:
        refuse("schema", repr(document.get("schema"))[:80], repr(SCHEMA))
    _check_plain(document, "", refuse, 0)
    _check_keys(document, _PARTS, "", refuse)
    for key, check in _PARTS.items():
        if key in document:
            check(document[key], key, refuse)
    return RecordedMachine(document, Path(origin).stem if origin.endswith(".json") else origin)


_Refuse = Callable[[str, str, str], NoReturn]
_Check = Callable[[Any, str, _Refuse], None]


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


def _check_plain(value: Any, place: str, refuse: _Refuse, depth: int) -> None:
    """JSON's own types only, not too deep, and text that can be written out again."""
    if depth > DEEPEST:
        refuse(place[:80], "nested too deeply", f"at most {DEEPEST} levels")
    if isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            refuse(place, "half a surrogate pair", "text")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_plain(key, f"a key of {place or 'the object'}", refuse, depth + 1)
            _check_plain(item, f"{place}.{key}" if place else key, refuse, depth + 1)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_plain(item, f"{place}[{number}]", refuse, depth + 1)
    elif value is not None and not isinstance(value, (bool, int, float)):
        refuse(place, type(value).__name__, "a value that JSON has")


def _check_keys(value: Any, known: Mapping[str, Any], place: str, refuse: _Refuse) -> None:
    if not isinstance(value, dict):
        refuse(place, type(value).__name__, "an object")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            wanted = f"one of the keys {', '.join(known)}"
            refuse(place or "the document", f"{str(key)[:80]!r}{meant}", wanted)


def _one(kind: type, wanted: str, accept: Callable[[Any], object] = lambda value: True) -> _Check:
    def check(value: Any, place: str, refuse: _Refuse) -> None:
        # bool is an int to Python, and `count: true` is a mistake.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            refuse(place, type(value).__name__, wanted)
        if not accept(value):
            refuse(place, repr(value)[:80], wanted)

    return check


def _object(fields: Mapping[str, _Check], required: Sequence[str] = ()) -> _Check:
    def check(value: Any, place: str, refuse: _Refuse) -> None:
        _check_keys(value, fields, place, refuse)
        for key in required:
            if key not in value:
                refuse(place, f"no {key}", f"the key {key}")
        for key, item in value.items():
            fields[key](item, f"{place}.{key}", refuse)

    return check


def _map(item_check: _Check, accept: Callable[[str], object] = bool, wanted: str = "") -> _Check:
    def check(value: Any, place: str, refuse: _Refuse) -> None:
        _one(dict, "an object")(value, place, refuse)
        for key, item in value.items():
            if not accept(key):
                refuse(place, repr(key)[:80], wanted or "a key that is not empty")
            item_check(item, f"{place}.{key}", refuse)

    return check


def _list(item_check: _Check) -> _Check:
    def check(value: Any, place: str, refuse: _Refuse) -> None:
        _one(list, "a list")(value, place, refuse)
        for number, item in enumerate(value):
            item_check(item, f"{place}[{number}]", refuse)

    return check


def _or_null(inner: _Check) -> _Check:
    def check(value: Any, place: str, refuse: _Refuse) -> None:
        if value is not None:
            inner(value, place, refuse)

    return check


def _answer(value: Any, place: str, refuse: _Refuse) -> None:
    _check_keys(value, {"value": None, "error": None}, place, refuse)
    if len(value) != 1:
        refuse(place, f"{len(value)} keys", "either value or error")
    if "error" in value:
        _TEXT(value["error"], f"{place}.error", refuse)


def _hexadecimal(digits: int) -> _Check:
    # Empty where the system would not say: a function that vanished while it was read.
    form = re.compile(rf"(?:[0-9a-f]{{{digits}}})?")
    return _one(str, f"{digits} lower-case hexadecimal digits, no 0x", form.fullmatch)


_TEXT = _one(str, "text")
_BYTES = _or_null(_one(int, "a number of bytes or null", lambda value: value >= 0))
_PATH = _one(str, "an absolute path", lambda value: value.startswith("/"))
_CARD = _object(
    {
        "address": _one(str, "an address such as 0000:c1:00.0", _PCI_ADDRESS.fullmatch),
        "vendor": _hexadecimal(4),
        "device": _hexadecimal(4),
        "class_id": _hexadecimal(6),
        "driver": _or_null(_TEXT),
    },
    required=("address", "vendor", "device", "class_id"),
)
_PARTS: Mapping[str, _Check] = {
    "schema": _TEXT,
    "title": _TEXT,
    "kind": _one(str, "reading or composed", {"reading", "composed"}.__contains__),
    "sources": _map(_TEXT),
    "platform": _object(dict.fromkeys(("system", "arch", "python"), _TEXT)),
    "env": _map(_TEXT),
    "memory": _object({"total": _BYTES, "available": _BYTES}),
    "cpu": _object(
        {
            "model": _TEXT,
            "flags": _list(_TEXT),
            "count": _one(int, "a number of processors, at least 1", lambda value: value >= 1),
        }
    ),
    "pci": _list(_CARD),
    "paths": _list(_PATH),
    "files": _map(_TEXT, lambda key: key.startswith("/"), "an absolute path"),
    "queries": _map(_answer),
    "commands": _map(_TEXT),
    "distributions": _map(_TEXT),
    "distribution_files": _map(_TEXT, lambda key: ":" in key, "distribution:path"),
}
