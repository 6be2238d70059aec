"""Reads Python sources without running any of them, and finds where they assume CUDA."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from accel.errors import InputError
from accel_frameworks.lint import names
from accel_frameworks.lint.findings import Fate, Finding, Unread

SKIPPED = frozenset(
    (".git", ".hg", "__pycache__", "node_modules", "site-packages", "build", "dist")
)
DEVICE_NAME = re.compile(r"cuda(:(\d+|%[ds]|\{.*))?\Z")
TENSOR_TYPE = re.compile(r"torch\.cuda\.[A-Z][A-Za-z0-9]*Tensor\Z")
NCCL_NAME = re.compile(r"(^|[:,])nccl($|,)", re.IGNORECASE)
Dotted = dict[str, str]


def read(path: Path) -> tuple[int, list[Finding], list[Unread]]:
    """How many files there were, what was found, and what could not be read.

    `path` is a file, or a folder whose Python files are read. InputError if it is neither.
    """
    if not path.exists():
        raise InputError(f"there is no {path}", found="no such file", remedy="accel lint PATH")
    if not (path.is_file() or path.is_dir()):
        raise InputError(
            f"{path} cannot be read", found="neither a file nor a folder", remedy="accel lint PATH"
        )
    findings: list[Finding] = []
    unread: list[Unread] = []
    count = 0
    for file in [path] if path.is_file() else files(path):
        count += 1
        try:
            findings += inspect(file.read_bytes(), str(file))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            unread.append(Unread(str(file), f"{type(error).__name__}: {error}".split("\n")[0]))
    return count, sorted(findings), sorted(unread)


def files(folder: Path) -> Iterator[Path]:
    """The Python files below `folder`, in order; no links are followed, no environment entered."""
    for where, folders, found in os.walk(folder):
        inside = Path(where)
        folders[:] = sorted(
            name
            for name in folders
            if name not in SKIPPED and not (inside / name / "pyvenv.cfg").exists()
        )
        yield from (inside / name for name in sorted(found) if name.endswith(".py"))


def inspect(source: bytes | str, path: str = "<source>") -> list[Finding]:
    """Every place in `source` that assumes CUDA, in order.

    Raises what `ast.parse` raises: SyntaxError, ValueError, RecursionError, MemoryError.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes that Python warns of are not our subject
        tree = ast.parse(source, path)
    found = _Reader(path, tree).found
    return sorted(found)


class _Reader:
    """One pass over a tree, by a stack of its own: sources can be deep."""

    def __init__(self, path: str, tree: ast.AST) -> None:
        self.path = path
        self.known: Dotted = {}
        self.found: set[Finding] = set()
        stack: list[tuple[ast.AST, ast.AST | None]] = [(tree, None)]
        nodes: list[tuple[ast.AST, ast.AST | None]] = []
        while stack:
            node, parent = stack.pop()
            nodes.append((node, parent))
            stack += [(child, node) for child in ast.iter_child_nodes(node)]
        for node, _ in nodes:
            self._learn(node)
        documentation = {id(text) for node, _ in nodes if (text := _docstring(node)) is not None}
        for node, parent in nodes:
            if id(node) not in documentation:
                self._look(node, parent)

    def add(self, node: ast.AST, rule: str, found: str, portable: str, fate: Fate) -> None:
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1
        self.found.add(Finding(self.path, line, column, rule, found, portable, fate))

    # Names

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                self.known[alias.asname or name] = name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                self.known[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def dotted(self, node: ast.AST) -> str | None:
        """`torch.cuda.x` for what the expression names, imports seen through."""
        steps: list[str] = []
        while isinstance(node, ast.Attribute):
            steps.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        first = self.known.get(node.id)
        return None if first is None else ".".join([first, *reversed(steps)])

    # Rules

    def _look(self, node: ast.AST, parent: ast.AST | None) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node)
        elif isinstance(node, (ast.Attribute, ast.Name)):
            if not isinstance(parent, ast.Attribute):
                self._name(node)
            if isinstance(node, ast.Attribute):
                self._attribute(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            self._text(node, node.value, parent)
        elif isinstance(node, ast.JoinedStr):
            self._text(node, _beginning(node), parent)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Compare):
            self._comparison(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif node.module and not node.level:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            modules = []
        for name, instead in names.CUDA_ONLY_MODULES.items():
            if any(f"{module}.".startswith(f"{name}.") for module in modules):
                self.add(node, "module", f"import {name}", instead, Fate.NOT_REDIRECTED)
        for name in modules:
            if isinstance(node, ast.ImportFrom) and name.startswith("torch.cuda."):
                fate, portable = names.fate_of(name)
                if fate is Fate.REFUSED:
                    self.add(node, "torch.cuda", name, portable, fate)

    def _name(self, node: ast.Attribute | ast.Name) -> None:
        name = self.dotted(node)
        if name is None:
            return
        for prefix in ("torch.cuda.", "torch.version.cuda", "torch.backends.cud"):
            if name.startswith(prefix):
                known = name
                fate, portable = names.fate_of(known)
                while fate is Fate.NOT_REDIRECTED and known.count(".") > 2:
                    # torch.cuda.Stream.priority_range: what is known is its beginning
                    known = known.rpartition(".")[0]
                    fate, portable = names.fate_of(known)
                self.add(node, prefix.rstrip("."), name, portable, fate)
                return
        if name in names.REFUSED:
            self.add(node, "extension", name, names.REFUSED[name], Fate.REFUSED)

    def _attribute(self, node: ast.Attribute) -> None:
        if node.attr == "is_cuda":
            portable = f".device.type == {names.DEVICE}.type"
            self.add(node, "is_cuda", ".is_cuda", portable, Fate.REDIRECTED)

    def _call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr == "cuda":
            if self.dotted(function) != "torch.cuda":
                self.add(function, "cuda()", ".cuda()", ".to(device)", Fate.REDIRECTED)
            return
        if isinstance(function, ast.Attribute) and function.attr == "startswith":
            held = function.value
            about = _is_device_text(held) or _is_device_type(held)
            if about and any(map(_is_cuda, node.args)):
                self._compared(node, "a tensor's device, as text, compared with 'cuda'")
            return
        name = self.dotted(function) or ""
        first = node.args[0] if node.args else None
        number = isinstance(first, ast.Constant) and type(first.value) is int
        if number and name == "torch.device":
            text = f"torch.device({first.value})"  # type: ignore[union-attr]
            self.add(node, "number", text, "torch.device(type, number)", Fate.NOT_REDIRECTED)
        elif number and isinstance(function, ast.Attribute) and function.attr == "to":
            text = f".to({first.value})"  # type: ignore[union-attr]
            self.add(node, "number", text, ".to(device)", Fate.REDIRECTED)
        if name.startswith("torch.utils.cpp_extension.load") and _has_cuda_sources(node):
            self.add(
                node, "extension", f"{name} of CUDA code", "build it for the device", Fate.REFUSED
            )

    def _comparison(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        if any(map(_is_device_type, sides)) and any(map(_is_cuda, sides)):
            self._compared(node, "a tensor's device.type compared with 'cuda'")
        elif any(map(_is_device_text, sides)) and any(map(_is_cuda, sides)):
            self._compared(node, "a tensor's device, as text, compared with 'cuda'")
        elif any(_is_device(side) for side in sides) and any(map(self._names_cuda, sides)):
            self._compared(node, "a tensor's device compared with torch.device('cuda')")

    def _compared(self, node: ast.AST, what: str) -> None:
        self.add(node, "device.type", what, f"== {names.DEVICE}.type", Fate.NOT_REDIRECTED)

    def _names_cuda(self, node: ast.expr) -> bool:
        named = isinstance(node, ast.Call) and self.dotted(node.func) == "torch.device"
        return named and any(map(_is_cuda, node.args))  # type: ignore[attr-defined]

    def _text(self, node: ast.expr, text: str, parent: ast.AST | None) -> None:
        if isinstance(parent, (ast.Compare, ast.JoinedStr, ast.FormattedValue)):
            return  # a comparison is a question; parts of a text are seen with the whole
        if DEVICE_NAME.match(text):
            portable = names.DEVICE if text == "cuda" else "torch.device(type, number)"
            shown = "f'cuda:{...}'" if isinstance(node, ast.JoinedStr) else repr(text)
            self.add(node, "device", shown, portable, Fate.REDIRECTED)
        elif TENSOR_TYPE.match(text):
            self.add(node, "torch.cuda", repr(text), ".to(device, dtype)", Fate.REDIRECTED)
        elif text.split(" ")[0].endswith("nvidia-smi"):
            self.add(node, "nvidia-smi", text[:40], "accel devices --json", Fate.NOT_REDIRECTED)
        elif NCCL_NAME.search(text) and len(text) < 64 and " " not in text:
            self.add(node, "nccl", repr(text), "no backend: torch chooses", Fate.REDIRECTED)
        else:
            known = names.variable(text)
            if known is not None:
                fate, portable = known
                self.add(node, "variable", text, portable, fate)


def _is_device(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "device"


def _is_device_type(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "type" and _is_device(node.value)


def _is_device_text(node: ast.AST) -> bool:
    """`str(x.device)`."""
    text = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "str"
    return text and any(map(_is_device, node.args))  # type: ignore[attr-defined]


def _is_cuda(node: ast.AST) -> bool:
    """`"cuda"`, `"cuda:0"`, or a text that begins so."""
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(node, ast.JoinedStr):
        value = _beginning(node)
    return isinstance(value, str) and DEVICE_NAME.match(value) is not None


def _docstring(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return node.value
    return None


def _beginning(node: ast.JoinedStr) -> str:
    """`cuda:{` for f"cuda:{rank}"; text that is put together elsewhere is not looked at."""
    parts = [part.value if isinstance(part, ast.Constant) else "{" for part in node.values]
    return "".join(str(part) for part in parts)


def _has_cuda_sources(node: ast.Call) -> bool:
    given = {keyword.arg for keyword in node.keywords}
    texts = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
    return "cuda_sources" in given or any(
        isinstance(text, str) and text.endswith((".cu", ".cuh")) for text in texts
    )
