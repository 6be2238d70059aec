"""Who asks whether there is CUDA: a library that knows other devices is told the truth.

transformers, accelerate and their like ask `torch.cuda.is_available()` first and then for every
other kind of device: Yes would lead them past the device that is there. A script that was written
for CUDA alone asks nothing else: for it Yes means "the device you use is there".

On a CPU a script that has a way without CUDA takes it, as it does without accel; only one that
would refuse to go on, or divides by the number of devices, is told Yes.
"""

from __future__ import annotations

import ast
import functools
import linecache
import sys
from types import CodeType, FrameType

OURS = frozenset(("accel", "accel_frameworks"))
AWARE = frozenset(
    (
        "accelerate",
        "apex",
        "bitsandbytes",
        "datasets",
        "deepspeed",
        "diffusers",
        "evaluate",
        "flash_attn",
        "huggingface_hub",
        "ignite",
        "intel_extension_for_pytorch",
        "kernels",
        "lightning",
        "lightning_fabric",
        "liger_kernel",
        "llamafactory",
        "optimum",
        "peft",
        "pytorch_lightning",
        "safetensors",
        "sentence_transformers",
        "sglang",
        "swift",
        "timm",
        "torch",
        "torch_mlu",
        "torch_musa",
        "torch_npu",
        "torchao",
        "torchaudio",
        "torchdata",
        "torchmetrics",
        "torchtitan",
        "torchtune",
        "torchvision",
        "transformers",
        "triton",
        "trl",
        "verl",
        "vllm",
        "xformers",
    )
)
"""Libraries that look for other devices than CUDA themselves, or are made for CUDA's own code."""
_EXITS = frozenset(("exit", "quit", "_exit", "abort", "error", "fail", "skip"))


def asker() -> FrameType | None:
    """The frame that called into accel, through whatever stands between."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _top(frame) in OURS:
        frame = frame.f_back
    return frame


def own_frames() -> int:
    """How many frames of accel's lie between the function that asks and whoever called in."""
    frame: FrameType | None = sys._getframe(1)
    count = 0
    while frame is not None and _top(frame) in OURS:
        frame, count = frame.f_back, count + 1
    return count


def knows_devices(frame: FrameType | None, *, any_library: bool = False) -> bool:
    """Whether the code of `frame` belongs to a library that is to be told the truth."""
    if frame is None:
        return True
    top = _top(frame)
    if top in AWARE or top.startswith("accel_"):
        return True
    return any_library and _installed(frame.f_code.co_filename)


def answer_is_cuda(kind: str) -> bool:
    """What a tensor on the device says to `is_cuda`, by who asks."""
    frame = asker()
    if knows_devices(frame, any_library=True):
        return False
    return kind != "cpu" or refuses_without(frame)


def refuses_without(frame: FrameType | None) -> bool:
    """Whether the code at `frame` stops if there is no CUDA: `assert`, or a branch that raises."""
    if frame is None:
        return False
    return _refuses(frame.f_code, frame.f_lineno, frame.f_lasti)


def _top(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


@functools.lru_cache(maxsize=1024)
def _installed(filename: str) -> bool:
    parts = filename.replace("\\", "/").split("/")
    return "site-packages" in parts or "dist-packages" in parts


@functools.lru_cache(maxsize=256)
def _refuses(code: CodeType, line: int, instruction: int) -> bool:
    try:
        tree = _parsed(code.co_filename)
    except (SyntaxError, ValueError, RecursionError):
        return False
    columns = _columns(code, instruction)
    return any(
        isinstance(node, (ast.Call, ast.Attribute))
        and node.lineno <= line <= (node.end_lineno or node.lineno)
        and (columns is None or (node.lineno, node.col_offset) == columns)
        and _is_question(node)
        and refusing(parents)
        for node, parents in _walk(tree, ())
    )


@functools.lru_cache(maxsize=8)
def _parsed(filename: str) -> ast.AST:
    return ast.parse("".join(linecache.getlines(filename)))


def _columns(code: CodeType, instruction: int) -> tuple[int, int] | None:
    positions = getattr(code, "co_positions", None)
    if positions is None:  # Python 3.10 knows the line alone
        return None
    found = list(positions())[instruction // 2]
    return None if found[0] is None or found[2] is None else (found[0], found[2])


def _walk(node: ast.AST, parents: tuple[ast.AST, ...]) -> list[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Every node with its parents, nearest first; no recursion, so deep sources do no harm."""
    found: list[tuple[ast.AST, tuple[ast.AST, ...]]] = []
    stack = [(node, parents)]
    while stack:
        node, parents = stack.pop()
        found.append((node, parents))
        stack += [(child, (node, *parents)) for child in ast.iter_child_nodes(node)]
    return found


def _is_question(node: ast.Call | ast.Attribute) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "is_cuda"
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    return name in ("is_available", "is_initialized", "is_built", "is_nccl_available")


def refusing(parents: tuple[ast.AST, ...]) -> bool:
    """Whether the statement around a question about CUDA stops the program on a No."""
    for node in parents:
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, (ast.If, ast.IfExp)):
            if isinstance(node, ast.IfExp):
                return False
            body = node.body if _negated(parents[: parents.index(node)]) else node.orelse
            return _stops(body) or (_leaves(body) and _in_main(parents))
        if isinstance(node, ast.stmt):
            return False
    return False


def _leaves(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Return) and body[-1].value is None


def _in_main(parents: tuple[ast.AST, ...]) -> bool:
    functions = (node for node in parents if isinstance(node, ast.FunctionDef))
    return any("main" in node.name or "train" in node.name for node in functions)


def _negated(between: tuple[ast.AST, ...]) -> bool:
    nots = sum(isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) for node in between)
    return nots % 2 == 1


def _stops(body: list[ast.stmt]) -> bool:
    if not body:
        return False
    last = body[-1]
    if isinstance(last, ast.Raise):
        return True
    call = last.value if isinstance(last, ast.Expr) else None
    if isinstance(call, ast.Call):
        return getattr(call.func, "attr", getattr(call.func, "id", "")) in _EXITS
    return False
