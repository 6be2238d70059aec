"""docs/cuda-names.md: what becomes of each name that torch_npu's and torchada's patches handle.

    python tools/cuda_names.py write                  the page, from cuda_names.toml and the patches
    python tools/cuda_names.py extract NPU TORCHADA   the name lists, from the two source files

NPU is torch_npu/contrib/transfer_to_npu.py, TORCHADA is torchada/_patch.py. They are parsed and
never run; only names are taken from them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib as _tomllib
else:
    import tomli as _tomllib

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(__file__).with_suffix(".toml")
PAGE = ROOT / "docs" / "cuda-names.md"

LISTS = {
    "torch_fn_white_list": "torch.",
    "torch_tensor_fn_white_list": "torch.Tensor.",
    "torch_module_fn_white_list": "torch.nn.Module.",
    "torch_cuda_fn_white_list": "torch.cuda.",
    "_FALLBACK_FACTORY_FUNCTIONS": "torch.",
    "_EXTRA_FACTORY_FUNCTIONS": "torch.",
    "_NO_REDIRECT": "torch.cuda.",
    "_SPECIAL_ATTRS": "torch.cuda.",
    "_REMAP_ATTRS": "torch.cuda.",
    "_MUSAC_EXPORTS": "torch._C.",
    "_CUDA_TO_MUSA_C_EXPORTS": "torch._C.",
}
ROOTS = {
    "torch": "torch",
    "dist": "torch.distributed",
    "filesystem": "torch.distributed.checkpoint.filesystem",
}
SAME = (
    ("torch.distributed.distributed_c10d.", "torch.distributed."),
    ("torch.distributed.device_mesh.", "torch.distributed."),
    ("torch.distributed.fsdp.fully_sharded_data_parallel.", "torch.distributed.fsdp."),
    ("torch.nn.parallel.distributed.", "torch.nn.parallel."),
    ("torch.nn.parallel.data_parallel.", "torch.nn.parallel."),
    ("torch.amp.autocast_mode.", "torch.amp."),
    ("torch.amp.grad_scaler.", "torch.amp."),
    ("torch.cuda.amp.autocast_mode.", "torch.cuda.amp."),
    ("torch.cuda.random.", "torch.cuda."),
    ("torch.cuda.memory.", "torch.cuda."),
    ("torch.storage.UntypedStorage", "torch.UntypedStorage"),
)
"""Where torch keeps a name, and where it is looked for."""


# Extraction -----------------------------------------------------------------------------------


def extract(source: str) -> list[str]:
    """The names that `source` replaces in torch, dotted, without doubles."""
    found: set[str] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                found |= set(_listed(target, node.value)) | set(_assigned(target))
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            found |= set(_listed(node.target, node.value))
        elif isinstance(node, ast.Call):
            found |= set(_wrapped(node))
        elif isinstance(node, ast.FunctionDef) and _is_registered(node):
            found.add(f"{node.name}()")
    return sorted(found)


def _dotted(node: ast.AST) -> str:
    steps: list[str] = []
    while isinstance(node, ast.Attribute):
        steps.append(node.attr)
        node = node.value
    root = ROOTS.get(node.id) if isinstance(node, ast.Name) else None
    return ".".join([root, *reversed(steps)]) if root and steps else ""


def _assigned(target: ast.AST) -> Iterator[str]:
    name = _dotted(target)
    if name and not name.startswith(("torch.musa", "torch.npu")):
        yield name


def _listed(target: ast.AST, value: ast.AST) -> Iterator[str]:
    name = getattr(target, "id", "")
    if name in LISTS:
        yield from (f"{LISTS[name]}{text}" for text in _texts(value))
    elif name == "patches" and isinstance(value, ast.List):
        for pair in value.elts:
            first = pair.elts[0] if isinstance(pair, ast.List) else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield f"torch.{first.value}"


def _texts(value: ast.AST) -> list[str]:
    if isinstance(value, ast.Dict):
        keys = [key for key in value.keys if key is not None]
    else:
        inside = value.args[0] if isinstance(value, ast.Call) and value.args else value
        keys = list(getattr(inside, "elts", []))
    values = [key.value for key in keys if isinstance(key, ast.Constant)]
    return [value for value in values if isinstance(value, str)]


def _wrapped(node: ast.Call) -> Iterator[str]:
    """`_device_wrapper(torch.fft, ["fftfreq"])`, `setattr(torch._C, "x", ...)`."""
    called = getattr(node.func, "id", "")
    if called not in ("_device_wrapper", "setattr") or len(node.args) < 2:
        return
    holder = _dotted(node.args[0])
    names = node.args[1]
    alone = names.value if isinstance(names, ast.Constant) else None
    texts = [alone] if isinstance(alone, str) else _texts(names)
    if holder:
        yield from (f"{holder}.{text}" for text in texts)


def _is_registered(node: ast.FunctionDef) -> bool:
    return any(getattr(one, "id", "") == "patch_function" for one in node.decorator_list)


# What becomes of a name -----------------------------------------------------------------------


def patched() -> set[str]:
    """The names that accel's redirection replaces, on a CPU or on an accelerator."""
    from accel.machine import ThisMachine
    from accel.resolving import Capabilities
    from accel.values import Device
    from accel_frameworks.torch.redirecting import patches_for
    from accel_frameworks.torch.target import Target

    names: set[str] = set()
    for kind in ("cpu", "xpu"):
        device = Device(vendor="any", name="any", kind=kind, arch="any")
        given = Capabilities(device, [], ThisMachine())
        for patch in patches_for(Target(kind, "any"), given):
            names.add(usual(patch.target.replace(":", ".")))
    return names


def usual(name: str) -> str:
    """The name where people look for it."""
    for kept, looked in SAME:
        if name.startswith(kept):
            return looked + name.removeprefix(kept)
    return name


def become(name: str, ours: set[str], words: dict[str, str]) -> str:
    """What accel does with `name`, in words. KeyError if nobody has said."""
    from accel_frameworks.torch.refusing import REFUSED

    refused = {key.replace(":", ".") for key in REFUSED}
    if name in words:
        return words[name]
    if name in refused:
        return "refused with an error that says why"
    if usual(name) in ours or f"{usual(name)}.__init__" in ours:
        return "redirected"
    raise KeyError(name)


def page(data: dict[str, Any]) -> str:
    """The page, whole."""
    ours = patched()
    words = data["words"]
    lines = [data["page"]["opening"].strip(), ""]
    for key in ("torch_npu", "torchada", "torch_cuda"):
        section = data[key]
        lines += [f"## {section['title']}", "", section["text"].strip(), ""]
        lines += ["| name | accel |", "|---|---|"]
        rows = [(name, become(name, ours, words)) for name in section["names"]]
        lines += [f"| `{name}` | {said} |" for name, said in rows]
        redirected = sum(said.startswith("redirected") for _, said in rows)
        lines += ["", f"{len(rows)} names, {redirected} of them redirected.", ""]
    return "\n".join(lines).rstrip() + "\n"


def load() -> dict[str, Any]:
    """The name lists, with their versions, and the words for what is not simply redirected."""
    document: dict[str, Any] = _tomllib.loads(DATA.read_text(encoding="utf-8"))
    return document


def main(arguments: Iterable[str]) -> int:
    """Run one of the two commands."""
    command, *files = list(arguments) or [""]
    if command == "write" and not files:
        PAGE.write_text(page(load()), encoding="utf-8")
        print(PAGE.relative_to(ROOT))
        return 0
    if command == "extract" and files:
        for file in files:
            print(f"# {file}")
            print("\n".join(f'    "{n}",' for n in extract(Path(file).read_text(encoding="utf-8"))))
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
