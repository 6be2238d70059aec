"""Takes what is private out of a recording: who and where, never what the machine is.

Taken out are host and user names, home folders, network and mail addresses, serial numbers, UUIDs,
tokens and local file URLs: by the key they stand under, and by their form wherever they stand. PCI
addresses and versions stay. One UUID becomes the same numbered stand-in everywhere, so that a
variable which selects a card by its UUID still selects it in the recording.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import ipaddress
import json
import os
import platform
import re
from collections.abc import Mapping
from typing import Any

from accel.machine import Machine

REMOVED = "<removed>"

_PHRASES = frozenset(
    [
        *("serial", "serial number", "serial no", "serial num", "serialnumber", "sn"),
        *("uuid", "guid", "unique id", "hive id", "machine id", "boot id", "board id", "asset tag"),
        *("mac", "mac address", "mac addr", "ip address", "ip addr", "ipaddr", "master addr"),
        *("hostname", "host name", "nodename", "node name", "node list", "nodelist"),
        *("username", "user name", "login", "email", "token", "secret", "password", "passwd"),
        *("credential", "credentials", "api key", "access key"),
    ]
)
# Too common as a part of longer names (`memory_user`, `ip_version`): private only on their own.
_COMMON = frozenset(["root", "user", "localhost", "admin", "home", "removed"])
_ALONE = frozenset(["host", "hosts", "user", "ip", "home", "logname"])

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I)
_STAND_IN = "00000000-0000-0000-0000-"
_FORMS = tuple(
    re.compile(form, re.I)
    for form in (
        r"(?<![0-9a-z])[0-9a-f]{32}(?![0-9a-z])",  # a machine-id
        r"(?<=gpu-)[0-9a-f]{6,}(?![0-9a-z-])",  # a UUID cut short
        r"(?<=mig-)[0-9a-f]{6,}(?![0-9a-z-])",
        r"(?<![0-9a-f:])[0-9a-f]{2}([:-])[0-9a-f]{2}(?:\1[0-9a-f]{2}){4,}",  # MAC
        r"(?<![0-9a-f:])(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}",  # IPv6 at full length
        r"(?<![0-9a-f:])[0-9a-f]{4}(?::[0-9a-f]{4}){3}(?![0-9a-f:])",  # InfiniBand GUID
        r"[\w.+-]+@[a-z0-9][\w-]*(?:\.[\w-]+)*",  # user@host, mail
        r"file:[^\s\"'>)]+",
    )
)
_HOMES = re.compile(
    r"(?:(?<![\w.~])/(?:home|users|export/home|var/home)/[^/\s:;,\"'<>]+"
    r"|(?<![\w.~/])/root(?![\w.-])|\b[a-z]:\\+users\\+[^\\\s:;,\"'<>]+)",
    re.I,
)
_IPV4 = re.compile(r"(?<![\w.+-])\d{1,3}(?:\.\d{1,3}){3}(?!\d|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9a-f]*:)[0-9a-f:]{3,45}(?![\w:])", re.I)
_VERSION_BEFORE = re.compile(r"(?:version|release|driver|firmware|build)\W[^\n]*$", re.I)
_SEPARATOR = re.compile(r"[:=]")
_PAIR = re.compile(r"^(\w+)([ \t]+)(\d+)$", re.MULTILINE)
"""A line of a kernel's property file: a name and a number."""
_ELEMENT = re.compile(r"<([\w-]+)>([^<>]*)</\1>")


def is_private_key(key: str) -> bool:
    """Whether what stands under this key is private, whatever it looks like."""
    words = _words(key)
    if len(words) == 1 and words[0] in _ALONE:
        return True
    return " ".join(words[-1:]) in _PHRASES or " ".join(words[-2:]) in _PHRASES


def _words(key: str) -> tuple[str, ...]:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key)
    return tuple(re.findall(r"[a-z0-9]+", parted.lower()))


def _pair(found: re.Match[str]) -> str:
    name, space, _ = found.groups()
    return f"{name}{space}0" if is_private_key(name) else found.group()


@dataclasses.dataclass
class Scrubber:
    """Scrubs one recording. `names` are private words of the machine it was made on."""

    names: frozenset[str] = frozenset()
    _uuids: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, machine: Machine) -> Scrubber:
        """One that knows the host's and the user's name, where `machine` is this one."""
        if not machine.is_here:
            return cls()
        public = {word for card in machine.pci() for word in _words(card.driver or "")}
        public |= {word for name in machine.distributions() for word in _words(name)}
        public |= set(_words(machine.cpu().model)) | _COMMON
        names = {name for name in _own_names() if len(name) > 2 and name.lower() not in public}
        return cls(frozenset(names))

    def document(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """A whole recording: free text is scrubbed, facts with a form of their own stay."""
        scrubbed = dict(document)
        scrubbed["title"] = self.text(document["title"])
        scrubbed["env"] = self._texts(document["env"])
        scrubbed["files"] = self._texts(document["files"])
        scrubbed["paths"] = [path for path in document["paths"] if self.text(path) == path]
        scrubbed["commands"] = self._texts(document["commands"])
        scrubbed["queries"] = self.value(document["queries"])
        scrubbed["distribution_files"] = self._texts(document["distribution_files"])
        return scrubbed

    def _texts(self, texts: Mapping[str, str]) -> dict[str, str]:
        """Texts by name. One whose name is private itself is left out: nobody could ask for it."""
        return {
            key: REMOVED if is_private_key(os.path.basename(key)) else self.text(text)
            for key, text in texts.items()
            if self.text(key) == key
        }

    def value(self, value: Any, key: str = "") -> Any:
        """Plain data, scrubbed at every depth; `key` is what it stands under."""
        if isinstance(value, Mapping):
            return {
                self.text(str(name)): self.value(item, str(name)) for name, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.value(item, key) for item in value]
        if isinstance(value, str) and _UUID.search(value):
            return self.text(value)
        if is_private_key(key) and value is not None and not isinstance(value, bool):
            return REMOVED
        if isinstance(value, str):
            return self._forms(value, versions="version" in key.lower())
        return value

    def text(self, text: str) -> str:
        """Free text: a file, what a command printed, the value of a variable."""
        if text.lstrip().startswith(("{", "[")):
            try:
                data = json.loads(text)
            except (ValueError, RecursionError):
                pass
            else:
                clean = self.value(data)
                return text if clean == data else json.dumps(clean, indent=2)
        text = _PAIR.sub(_pair, _ELEMENT.sub(_element, text))
        lines = self._columns(text.split("\n"))
        return self._forms("\n".join(_labelled(line) for line in lines))

    def _forms(self, text: str, versions: bool = False) -> str:
        """Again until nothing changes: what was taken out may have hidden what stood beside it."""
        while (clean := self._forms_once(text, versions)) != text:
            text = clean
        return text

    def _forms_once(self, text: str, versions: bool) -> str:
        text = _UUID.sub(self._uuid, text)
        for form in _FORMS:
            text = form.sub(REMOVED, text)
        text = _HOMES.sub(REMOVED, text)
        if not versions:
            text = _IPV4.sub(_address, text)
        text = _IPV6.sub(_address, text)
        for name in sorted(self.names, key=len, reverse=True):
            text = re.sub(rf"(?<![\w]){re.escape(name)}(?![\w])", REMOVED, text, flags=re.I)
        return text

    def _uuid(self, found: re.Match[str]) -> str:
        uuid = found.group().lower()
        if uuid.startswith(_STAND_IN):
            return found.group()
        return self._uuids.setdefault(uuid, f"{_STAND_IN}{len(self._uuids) + 1:012d}")

    def _columns(self, lines: list[str]) -> list[str]:
        """A table with commas under a line of headings: the private columns are taken out."""
        heads = [cell.strip() for cell in lines[0].split(",")]
        private = [number for number, head in enumerate(heads) if is_private_key(head)]
        if len(heads) < 2 or not private:
            return lines
        rows = [line.split(",") for line in lines[1:]]
        for row in rows:
            for number in private:
                if number < len(row) and not _UUID.search(row[number]):
                    row[number] = f" {REMOVED}" if number else REMOVED
        return [lines[0], *(",".join(row) for row in rows)]


def _own_names() -> set[str]:
    """This host's and this user's names. Asked of the system: to a Machine they are no facts."""
    host = platform.node()
    names = {host, host.partition(".")[0], os.path.basename(os.path.expanduser("~"))}
    # No user database, as in some containers: then there is no name to take out either.
    with contextlib.suppress(OSError, KeyError, ImportError):
        names.add(getpass.getuser())
    return names


def _address(found: re.Match[str]) -> str:
    """An IP address is taken out; four numbers after a word like `version` are none."""
    try:
        address = ipaddress.ip_address(found.group())
    except ValueError:
        return found.group()
    line = found.string[: found.start()].rpartition("\n")[2]
    if address.version == 4 and _VERSION_BEFORE.search(line):
        return found.group()
    return REMOVED


def _element(found: re.Match[str]) -> str:
    name, inner = found.groups()
    if is_private_key(name) and not _UUID.search(inner):
        return f"<{name}>[removed]</{name}>"
    return found.group()


def _labelled(line: str) -> str:
    """A line `label: value`, `a : label : value` or `label=value` without a private value."""
    for separator in _SEPARATOR.finditer(line):
        label = _SEPARATOR.split(line[: separator.start()])[-1]
        rest = line[separator.end() :]
        if is_private_key(label) and rest.strip(" \t\"',|") and not _UUID.search(rest):
            return f"{line[: separator.end()]} {REMOVED}"
    return line
