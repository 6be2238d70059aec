"""From PTX text to a Python generator function: one line of Python for each instruction."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any

import ptx

LABEL = re.compile(r"^(\$\w+):")
INSTRUCTION = re.compile(r"^(?:@(!?)%(p\d+)\s+)?([a-z][\w.:]*)\s*(.*)$")
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
LOGIC = {"or": "{0} or {1}", "and": "{0} and {1}", "xor": "{0} != {1}", "not": "not {0}"}
MASK = {"16": "0xFFFF", "32": "0xFFFFFFFF", "64": "0xFFFFFFFFFFFFFFFF"}
Make = Callable[..., Generator[Any, Any, None]]


def operand(text: str) -> str:
    text = text.strip()
    special = re.fullmatch(r"%(tid|ctaid)\.([xyz])", text)
    if special:
        axis = "xyz".index(special.group(2))
        return f"ctaid[{axis}]" if special.group(1) == "ctaid" else ("tid", "0", "0")[axis]
    if text.startswith("%"):
        return text[1:]
    if text.startswith("0f"):
        return repr(ptx.float_of(int(text[2:], 16)))
    if text == "shared":
        return "0"
    return f"({text})"


def split(text: str) -> list[str]:
    """Operands, those in braces kept together."""
    return [part.strip() for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", text)]


def address(text: str) -> str:
    return " + ".join(operand(part) for part in text.strip("[]").split("+"))


def listed(text: str) -> list[str]:
    return [operand(part) for part in text.strip("{}").split(",")]


def memory_access(op: str, parts: list[str]) -> str:
    kinds = op.split(".")
    kind = kinds[-1]
    width, floating = ptx.WIDTH[kind], kind == "f32"
    shared = "_shared" if "shared" in op else ""
    if op.startswith("ld"):
        names = listed(parts[0])
        got = f"T.load{shared}({address(parts[1])}, {width}, {len(names)})"
        line = f"{', '.join(names)}, = {got}"
        if floating:
            line += "".join(f"; {name} = ptx.float_of({name})" for name in names)
        return line
    values = listed(parts[1])
    made = [f"ptx.bits_of({value})" if floating else value for value in values]
    where = address(parts[0])
    return "; ".join(
        f"T.store{shared}({where} + {index * width}, {width}, {value} & {(1 << 8 * width) - 1})"
        for index, value in enumerate(made)
    )


def convert(op: str, d: str, source: list[str]) -> str:
    to, of = op.split(".")[-2:]
    a = source[0]
    if op == "cvt.rn.bf16x2.f32":
        return f"{d} = ptx.to_bfloat({a}) << 16 | ptx.to_bfloat({source[1]})"
    if to == "f32":
        return f"{d} = ptx.HALF[{a}]" if of == "f16" else f"{d} = ptx.f32({a})"
    if of == "f32":
        return f"{d} = ptx.to_{'bfloat' if to == 'bf16' else 'half'}({a})"
    if of.startswith("s"):
        a = f"ptx.signed({a}, {of[1:]})"
    return f"{d} = {a} & {MASK[to[1:]]}"


def arithmetic(op: str, d: str, s: list[str]) -> str:
    name, kind = op.split(".")[0], op.split(".")[-1]
    if kind == "f32":
        by_name = {
            "add": "{0} + {1}",
            "sub": "{0} - {1}",
            "mul": "{0} * {1}",
            "fma": "{0} * {1} + {2}",
        }
        return f"{d} = ptx.f32({by_name[name].format(*s)})"
    bits = kind[1:]
    if ".wide" in op:
        a = [f"ptx.signed({x})" if kind[0] == "s" else f"({x} & {MASK['32']})" for x in s]
        rest = f" + {s[2]}" if name == "mad" else ""
        return f"{d} = {a[0]} * {a[1]}{rest} & {MASK['64']}"
    if ".hi" in op:
        a = [f"ptx.signed({x})" if kind[0] == "s" else f"({x} & {MASK[bits]})" for x in s]
        return f"{d} = ({a[0]} * {a[1]} >> {bits}) & {MASK[bits]}"
    if name in ("min", "max"):
        a = [f"ptx.signed({x}, {bits})" for x in s] if kind[0] == "s" else s
        return f"{d} = {name}({a[0]}, {a[1]}) & {MASK[bits]}"
    if name in ("div", "rem"):
        a = [f"ptx.signed({x}, {bits})" if kind[0] == "s" else x for x in s]
        number = {"div": "ptx.quotient", "rem": "ptx.remainder"}[name]
        return f"{d} = {number}({a[0]}, {a[1]}) & {MASK[bits]}"
    if name == "shr" and kind[0] == "s":
        return f"{d} = ptx.signed({s[0]}, {bits}) >> {s[1]} & {MASK[bits]}"
    by_name = {
        "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "mad": "{0} * {1} + {2}",
        "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}", "not": "~{0}",
        "shl": "{0} << {1}", "shr": "({0} & " + MASK[bits] + ") >> {1}",
    }  # fmt: skip
    return f"{d} = ({by_name[name].format(*s)}) & {MASK[bits]}"


def instruction(op: str, rest: str) -> str:
    """One line of Python. Raises KeyError or AssertionError for what it does not know."""
    parts = split(rest)
    if op.startswith("mma.sync"):
        a, b, c = ("(" + ", ".join(listed(part)) + ",)" for part in parts[1:4])
        return f"{', '.join(listed(parts[0]))} = yield ('mma', {op!r}, {a}, {b}, {c})"
    if op.startswith(("ld.param", "ld.global", "ld.shared", "st.")):
        if op.startswith("ld.param"):
            return f"{operand(parts[0])} = values[{parts[1].strip('[]').rsplit('_', 1)[1]}]"
        return memory_access(op, parts)
    fixed = {
        "bar.sync": "yield ('block', 0)", "barrier.sync": "yield ('block', 0)",
        "bar.warp.sync": "yield ('warp', 0)",
        "barrier.cluster.arrive.release.aligned": "pass",
        "barrier.cluster.wait.acquire.aligned": "yield ('cluster', 0)",
        "griddepcontrol.launch_dependents": "pass", "griddepcontrol.wait": "T.may_read = True",
        "cp.async.commit_group": "T.commit()", "cp.async.wait_all": "T.wait_all()",
        "ret": "return",
    }  # fmt: skip
    if op in fixed:
        return fixed[op]
    if op.startswith("cp.async.wait_group"):
        return f"T.wait({parts[0]})"
    if op.startswith("cp.async"):
        read = f", {operand(parts[3])}" if len(parts) > 3 else ""
        return f"T.copy({address(parts[0])}, {address(parts[1])}, {parts[2]}{read})"
    if op.startswith("ldmatrix"):
        return f"{', '.join(listed(parts[0]))} = yield ('ldmatrix', {op!r}, T, {address(parts[1])})"
    if op.startswith("shfl.sync.bfly"):
        value, mask = operand(parts[1]), operand(parts[2])
        return f"{operand(parts[0])} = yield ('shfl', {op!r}, {value}, {mask})"
    if op.startswith("prefetch"):
        return f"T.block.memory.part({address(parts[0])}, 1)"
    if op == "mov.b32" and parts[1].startswith("{"):
        return f"{operand(parts[0])} = {' | '.join(pair(listed(parts[1])))}"
    if op == "mov.b32" and parts[0].startswith("{"):
        low, high = listed(parts[0])
        return f"{low}, {high} = {operand(parts[1])} & 0xFFFF, {operand(parts[1])} >> 16"
    return calculation(op, operand(parts[0]), [operand(part) for part in parts[1:]])


def pair(halves: list[str]) -> list[str]:
    return [f"{halves[0]} & 0xFFFF", f"({halves[1]} & 0xFFFF) << 16"]


def calculation(op: str, d: str, s: list[str]) -> str:
    name = op.split(".")[0]
    mask = MASK["64" if op.endswith("64") else "32"]
    if name == "mov" and ".b32" in op and d[0] != s[0][0] and {d[0], s[0][0]} == {"f", "r"}:
        return f"{d} = ptx.{'float_of' if d[0] == 'f' else 'bits_of'}({s[0]})"
    if name in ("mov", "cvta"):
        return f"{d} = {s[0]}" + ("" if d[0] in "fp" else f" & {mask}")
    if op.startswith("mapa"):
        return f"{d} = {s[0]} | ({s[1]} + 1) << 24"
    if name == "setp":
        _, how, kind = op.split(".")
        if how == "nan":
            return f"{d} = {s[0]} != {s[0]} or {s[1]} != {s[1]}"
        wrap = "ptx.signed({0}, {1})" if kind[0] == "s" else "({0} & {2})"
        a = [wrap.format(x, kind[1:], MASK[kind[1:]]) for x in s]
        return f"{d} = {a[0]} {COMPARE[how]} {a[1]}"
    if name == "selp":
        masked = "" if op.endswith("f32") else f" & {mask}"
        return f"{d} = ({s[0]} if {s[2]} else {s[1]}){masked}"
    if name == "cvt":
        return convert(op, d, s)
    if op.endswith(".pred"):
        return f"{d} = " + LOGIC[name].format(*s)
    if op in ("fma.rn.bf16x2", "fma.rn.f16x2"):
        return f"{d} = ptx.fma2({', '.join(s)}, {'bf16' in op})"
    if op in ("lop3.b32", "prmt.b32", "bfi.b32"):
        return f"{d} = ptx.{name}({', '.join(s)})"
    return arithmetic(op, d, s)


def translate(text: str, entry: str) -> tuple[Make, int]:
    """The generator function of a kernel, and how many blocks make a cluster."""
    body = text[re.search(rf"\.entry {entry}\(", text).start() :]  # type: ignore[union-attr]
    cluster = re.search(r"\.reqnctapercluster \d+, (\d+)", body[: body.index("{")])
    body = body[body.index("{") + 1 :]
    body = body[: re.search(r"^}", body, re.MULTILINE).start()]  # type: ignore[union-attr]
    blocks: list[tuple[str, list[str]]] = [("", [])]
    for line in re.sub(r"//.*", "", body).replace(";", ";\n").splitlines():
        line = line.strip().rstrip(";").strip()
        label = LABEL.match(line)
        if label:
            blocks.append((label.group(1), []))
        elif line and not line.startswith((".", "{", "}")):
            blocks[-1][1].append(line)
            if " bra" in f" {line}":
                blocks.append(("", []))
    return _function(blocks), int(cluster.group(1)) if cluster else 1


def _function(blocks: list[tuple[str, list[str]]]) -> Make:
    numbers = {label: index for index, (label, _) in enumerate(blocks) if label}
    text = "\n".join(line for _, body in blocks for line in body)
    poison = {"f": "ptx.NAN", "p": "False"}
    names = sorted(set(re.findall(r"%([a-z]+\d+)", text)))
    lines = ["def kernel(T, values, tid, ctaid):"]
    # A register may be copied before it is set, as long as nothing comes of it.
    lines += [f"  {name} = {poison.get(name[0], '0xFFFFFFFF')}" for name in names]
    lines += ["  if False: yield", "  at = 0", "  while True:"]
    for index, (_, body) in enumerate(blocks):
        lines.append(f"    {'el' if index else ''}if at == {index}:")
        lines.append(f"      at = {index + 1}")
        for line in body:
            match = INSTRUCTION.match(line)
            assert match, line
            negated, guard, op, rest = match.groups()
            made = (
                f"at = {numbers[rest.strip()]}" if op.startswith("bra") else instruction(op, rest)
            )
            head = f"if {'not ' if negated else ''}{guard}: " if guard else ""
            lines.append(f"      {head}{made}")
    space: dict[str, Any] = {"ptx": ptx}
    exec(compile("\n".join(lines), "<ptx>", "exec"), space)
    return space["kernel"]  # type: ignore[no-any-return]
