"""Reads a script around a question about CUDA: would it stop if the answer were No?

The question may be in the test of an `assert` or an `if`, or its answer be kept under a name that
such a test asks later.
"""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterator
from types import CodeType

Parents = tuple[ast.AST, ...]

_EXITS = frozenset(("exit", "quit", "_exit", "abort", "error", "fail", "skip"))
_QUESTIONS = frozenset(("is_available", "is_initialized", "is_built", "is_nccl_available"))
_NCCL = frozenset(("nccl", "cuda:nccl", "cpu:gloo,cuda:nccl", "cuda:nccl,cpu:gloo"))
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@functools.lru_cache(maxsize=256)
def at(code: CodeType, line: int, instruction: int) -> bool:
    """Whether the script stops on a No to the question that `code` asks at `instruction`."""
    try:
        nodes = _nodes(code.co_filename)
    except (SyntaxError, ValueError, RecursionError):
        return False
    columns = _columns(code, instruction)
    return any(
        isinstance(node, (ast.Call, ast.Attribute))
        and node.lineno <= line <= (node.end_lineno or node.lineno)
        and (columns is None or (node.lineno, node.col_offset) == columns)
        and _is_question(node)
        and (refusing(node, parents) or _refusing_later(parents, nodes))
        for node, parents in nodes
    )


@functools.lru_cache(maxsize=256)
def knows_nccl_alone(filename: str) -> bool:
    """Whether a script names `nccl` as its backend, and `gloo` nowhere as another choice."""
    try:
        nodes = _nodes(filename)
    except (SyntaxError, ValueError, RecursionError):
        return False
    values = (node.value for node, _ in nodes if isinstance(node, ast.Constant))
    texts = {value.lower() for value in values if isinstance(value, str)}
    return bool(texts & _NCCL) and "gloo" not in texts


@functools.lru_cache(maxsize=8)
def _nodes(filename: str) -> list[tuple[ast.AST, Parents]]:
    """Every node with its parents, nearest first; no recursion, so deep sources do no harm."""
    tree = ast.parse("".join(linecache.getlines(filename)))
    found: list[tuple[ast.AST, Parents]] = []
    stack: list[tuple[ast.AST, Parents]] = [(tree, ())]
    while stack:
        node, parents = stack.pop()
        found.append((node, parents))
        stack += [(child, (node, *parents)) for child in ast.iter_child_nodes(node)]
    return found


def _columns(code: CodeType, instruction: int) -> tuple[int, int] | None:
    positions = getattr(code, "co_positions", None)
    if positions is None:  # Python 3.10 knows the line alone
        return None
    found = list(positions())[instruction // 2]
    return None if found[0] is None or found[2] is None else (found[0], found[2])


def _is_question(node: ast.Call | ast.Attribute) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "is_cuda"
    return getattr(node.func, "attr", getattr(node.func, "id", "")) in _QUESTIONS


def refusing(node: ast.AST, parents: Parents) -> bool:
    """Whether the statement around `node` stops the program where `node` is false."""
    child = node
    for depth, parent in enumerate(parents):
        if isinstance(parent, ast.Assert):
            return child is parent.test and not _negated(parents[:depth])
        if isinstance(parent, ast.IfExp):
            return False
        if isinstance(parent, ast.If):
            if child is not parent.test:
                return False
            return _branch_refuses(parent, _negated(parents[:depth]), parents[depth + 1 :])
        if isinstance(parent, ast.stmt):
            return False
        child = parent
    return False


def _branch_refuses(node: ast.If, negated: bool, parents: Parents) -> bool:
    no, yes = (node.body, node.orelse) if negated else (node.orelse, node.body)
    if not no and _goes(yes):
        return _stops(_after_questions(_following(node, parents))[:1])
    return _stops(_after_questions(no)) or (_leaves(no) and _in_main(parents))


def _after_questions(body: list[ast.stmt]) -> list[ast.stmt]:
    """What is left of `body` where no other device is there: `elif mps: ...`, `if xpu: return`."""
    while body and isinstance(first := body[0], ast.If) and _asks(first.test):
        if first.orelse:
            body = first.orelse
        elif _goes(first.body):
            body = body[1:]
        else:
            break
    return body


def _asks(test: ast.expr) -> bool:
    plain = not any(isinstance(node, ast.UnaryOp) for node in ast.walk(test))
    calls = (node for node in ast.walk(test) if isinstance(node, ast.Call))
    return plain and any(_is_question(node) for node in calls)


def _refusing_later(parents: Parents, nodes: list[tuple[ast.AST, Parents]]) -> bool:
    """Whether the answer is kept, and something stops where what was kept is false.

    A local name counts within its function, one of the module's and an attribute everywhere; a
    parameter of the same name is another one.
    """
    kept = _kept_as(parents)
    if kept is None:
        return False
    scope = _function(parents) if isinstance(kept, ast.Name) else None
    text = ast.dump(kept).replace("Store()", "Load()")
    return any(
        type(node) is type(kept)
        and (scope is None or scope in around)
        and not any(_takes(one, kept) for one in around if one is not scope)
        and ast.dump(node) == text
        and refusing(node, around)
        for node, around in nodes
    )


def _kept_as(parents: Parents) -> ast.expr | None:
    """The name or attribute that a Yes makes true and a No makes false."""
    for depth, parent in enumerate(parents):
        if isinstance(parent, (ast.Assign, ast.AnnAssign, ast.NamedExpr)):
            targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
            simple = len(targets) == 1 and isinstance(targets[0], (ast.Name, ast.Attribute))
            return targets[0] if simple and not _negated(parents[:depth]) else None
        plain = isinstance(parent, ast.Call) and getattr(parent.func, "id", "") == "bool"
        if not (plain or isinstance(parent, (ast.UnaryOp, ast.BoolOp))):
            return None
        if isinstance(parent, ast.BoolOp) and not isinstance(parent.op, ast.And):
            return None
    return None


def _function(parents: Parents) -> ast.AST | None:
    return next((node for node in parents if isinstance(node, _FUNCTIONS)), None)


def _takes(node: ast.AST, name: ast.expr) -> bool:
    parameters = ast.walk(node.args) if isinstance(node, _FUNCTIONS) else ()
    return any(
        isinstance(one, ast.arg) and one.arg == getattr(name, "id", "") for one in parameters
    )


def _following(node: ast.stmt, parents: Parents) -> list[ast.stmt]:
    for body in _bodies(parents[0]) if parents else ():
        if node in body:
            return body[body.index(node) + 1 :]
    return []


def _bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        body = getattr(node, name, None)
        if isinstance(body, list):
            yield body


def _goes(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], (ast.Return, ast.Continue, ast.Break))


def _leaves(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Return) and body[-1].value is None


def _in_main(parents: Parents) -> bool:
    functions = (node for node in parents if isinstance(node, ast.FunctionDef))
    return any("main" in node.name or "train" in node.name for node in functions)


def _negated(between: Parents) -> bool:
    return sum(map(_is_not, between)) % 2 == 1


def _is_not(node: ast.AST) -> bool:
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        right, equal = node.comparators[0], isinstance(node.ops[0], (ast.Eq, ast.Is))
        return isinstance(right, ast.Constant) and right.value is (not equal)
    return False


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
