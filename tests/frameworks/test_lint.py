"""`accel lint`: what it finds, what it says of it, and that it runs nothing."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from accel.cli import main
from accel_frameworks.lint import reading
from accel_frameworks.lint.findings import Fate

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts").glob("*.py"))


def found(source):
    return {(one.line, one.column, one.rule): one for one in reading.inspect(source)}


@pytest.mark.parametrize(
    ("source", "rule", "fate", "portable"),
    [
        ("x.cuda()", "cuda()", "redirected", ".to(device)"),
        ("x.to('cuda')", "device", "redirected", "torch.accelerator.current_accelerator()"),
        ("x.to('cuda:1')", "device", "redirected", "torch.device(type, number)"),
        ("x.to(f'cuda:{rank}')", "device", "redirected", "torch.device(type, number)"),
        ("y = 'cuda:%d' % rank", "device", "redirected", "torch.device(type, number)"),
        ("x.to(0)", "number", "redirected", ".to(device)"),
        ("import torch\ntorch.device(0)", "number", "not redirected", "torch.device(type"),
        ("import torch\ntorch.cuda.synchronize()", "torch.cuda", "redirected", "torch.accelerator"),
        ("import torch as t\nt.cuda.empty_cache()", "torch.cuda", "redirected", "empty_cache"),
        ("from torch import cuda\ncuda.set_device(1)", "torch.cuda", "redirected", "set_device_i"),
        ("from torch.cuda.amp import autocast as a\na()", "torch.cuda", "redirected", "autocast"),
        (
            "from torch.cuda.amp.grad_scaler import GradScaler\nGradScaler()",
            "torch.cuda",
            "redirected",
            "torch.amp.GradScaler",
        ),
        ("import torch\ntorch.cuda.CUDAGraph()", "torch.cuda", "refused", "call the function"),
        ("import torch\ntorch.cuda.nccl.version()", "torch.cuda", "redirected", "torch"),
        ("import torch\ntorch.cuda.nccl.init_rank()", "torch.cuda", "not redirected", "torch"),
        ("import torch\ntorch.cuda.nccl.all_reduce([x])", "torch.cuda", "refused", "distributed"),
        ("import torch\ntorch.cuda.comm.gather(parts)", "torch.cuda", "redirected", "torch"),
        ("import torch\ntorch.cuda.cudart().cudaProfilerStart()", "torch.cuda", "redirected", ""),
        ("x.type('torch.cuda.HalfTensor')", "torch.cuda", "redirected", ".to(device, dtype)"),
        ("if 'cuda' in str(x.device): pass", "device.type", "not redirected", "=="),
        ("if str(x.device).startswith('cuda'): pass", "device.type", "not redirected", "=="),
        ("if x.device.type.startswith('cuda'): pass", "device.type", "not redirected", "=="),
        ("import torch\nx.device == torch.device('cuda:0')", "device.type", "not redirected", "=="),
        ("import torch\ntorch.cuda.nvtx.mark('x')", "torch.cuda", "no effect", "leave"),
        ("import torch\ntorch.backends.cudnn.benchmark = 1", "torch.backends.cud", "no effect", ""),
        ("import torch\nprint(torch.version.cuda)", "torch.version.cuda", "not redirected", ""),
        ("dist.init_process_group('nccl')", "nccl", "redirected", "no backend"),
        ("dist.init_process_group('cpu:gloo,cuda:nccl')", "nccl", "redirected", "no backend"),
        ("assert x.is_cuda", "is_cuda", "redirected", ".device.type"),
        ("if x.device.type == 'cuda': pass", "device.type", "not redirected", "=="),
        ("os.environ['CUDA_VISIBLE_DEVICES']", "variable", "not redirected", "ACCEL_DEVICE"),
        ("os.environ['NCCL_DEBUG'] = 'INFO'", "variable", "no effect", "leave"),
        ("os.getenv('PYTORCH_CUDA_ALLOC_CONF')", "variable", "redirected", "PYTORCH_ALLOC_CONF"),
        ("import cupy as cp", "module", "not redirected", "torch"),
        ("from numba import cuda", "module", "not redirected", "torch"),
        ("subprocess.run('nvidia-smi -L')", "nvidia-smi", "not redirected", "accel devices"),
        (
            "from torch.utils.cpp_extension import load\nload('x', ['a.cu'])",
            "extension",
            "refused",
            "build",
        ),
        (
            "from torch.utils.cpp_extension import CUDAExtension\nCUDAExtension('x', [])",
            "extension",
            "refused",
            "CppExtension",
        ),
    ],
)
def test_what_is_found(source, rule, fate, portable):
    (one,) = [one for one in reading.inspect(source) if one.rule == rule]
    assert one.fate is Fate(fate)
    assert portable in one.portable


@pytest.mark.parametrize(
    "source",
    [
        "'cuda in a text'",
        '"""cuda"""',
        "x = 'barracuda'",
        "if device == 'cuda': pass",
        "cuda = 3",
        "self.cuda_count.to(other)",
        "x.to(torch.float32)",
        "from .cuda import thing",
        "torch.cuda.synchronize()  # and no torch was imported",
        "import numpy\nnumpy.cuda.x",
        "",
    ],
)
def test_what_is_not_found(source):
    assert reading.inspect(source) == []


def test_places_are_lines_and_columns_as_editors_count():
    assert set(found("import torch\nif 1:\n    y = torch.zeros(2, device='cuda')")) == {
        (3, 31, "device")
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_nothing_in_our_scripts_is_left(script):
    findings = reading.inspect(script.read_bytes(), str(script))
    assert findings
    assert all(one.fate.harmless for one in findings)


def test_the_command(tmp_path, capsys):
    good, bad = tmp_path / "good.py", tmp_path / "sub" / "bad.py"
    bad.parent.mkdir()
    good.write_text("x.cuda()\n", encoding="utf-8")
    assert main(["lint", str(good)]) == 0
    said = capsys.readouterr().out
    assert f"{good}:1:1" in said
    assert "1 file: 1 redirected" in said
    bad.write_text("import torch\ntorch.cuda.graph(g)\n", encoding="utf-8")
    assert main(["lint", str(tmp_path)]) == 1
    capsys.readouterr()
    assert main(["lint", str(tmp_path), "--json", "--left"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["files"] == 2
    (one,) = document["findings"]
    assert (one["path"], one["line"], one["column"], one["fate"]) == (str(bad), 2, 1, "refused")
    assert main(["lint", str(tmp_path / "nothing.py")]) == 2


def test_what_cannot_be_read_is_said(tmp_path, capsys):
    (tmp_path / "broken.py").write_text("def (", encoding="utf-8")
    (tmp_path / "binary.py").write_bytes(b"x = 1\0")
    (tmp_path / "coded.py").write_bytes(
        "# -*- coding: latin-1 -*-\nx = '\xe9'.cuda()\n".encode("latin-1")
    )
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    assert main(["lint", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert said.count("cannot be read") == 3
    assert "coded.py:2:" in said
    assert said.splitlines()[-1].startswith("1 of 4 files read: ")
    assert main(["lint", "/dev/null"]) == 2
    assert "neither a file nor a folder" in capsys.readouterr().err


def test_environments_and_caches_are_not_entered(tmp_path):
    for folder in ("venv", ".git", "site-packages"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").write_text("x.cuda()", encoding="utf-8")
    (tmp_path / "venv" / "pyvenv.cfg").write_text("", encoding="utf-8")
    (tmp_path / "mine.py").write_text("x.cuda()", encoding="utf-8")
    count, findings, unread = reading.read(tmp_path)
    assert (count, len(findings), unread) == (1, 1, [])


def test_nothing_is_run(tmp_path):
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nimport no_such_module\n")
    reading.read(trap)
    assert not (tmp_path / "sprung").exists()


def test_deep_sources():
    deep = "x = " + "-" * 50_000 + "1"
    with contextlib.suppress(RecursionError, MemoryError, SyntaxError):
        assert reading.inspect(deep) == []
    chain = "x" + ".a" * 500 + ".cuda()"
    assert len(reading.inspect(chain)) == 1


PIECES = (
    *("torch", ".cuda", "()", "'cuda'", "'cuda:1'", "import torch", "\n", " ", "f'cuda:{x}'"),
    *(".to(0)", "x", "=", "if ", ":", "    ", "==", ".device.type", "lambda:", "'nccl'", "(", ")"),
    *("\\", "#", "from torch import cuda", "async ", "match x:", "case ", "\u00e9", "\t", "[", "]"),
    '"""',
)
pieces = st.sampled_from(PIECES)
sources = st.one_of(st.text(), st.lists(pieces, max_size=30).map("".join), st.binary())
CANNOT = (SyntaxError, ValueError, RecursionError, MemoryError)


@hypothesis.given(sources)
def test_odd_sources_are_read_or_refused(source):
    try:
        findings = reading.inspect(source)
    except CANNOT:
        return
    text = source if isinstance(source, str) else source.decode("latin-1")
    lines = text.count("\n") + text.count("\r") + text.count("\f") + 1
    for one in findings:
        assert 1 <= one.line <= lines
        assert one.column >= 1
        assert one.found
        assert one.portable


@hypothesis.given(st.lists(st.sampled_from(["x.cuda()", "y = 'cuda'", "z.is_cuda"]), max_size=8))
def test_each_is_found_once_wherever_it_stands(lines):
    body = "\n".join(f"    {line}" for line in lines)
    source = f"def f():\n{body or '    pass'}\n"
    assert len(reading.inspect(source)) == len(lines)
