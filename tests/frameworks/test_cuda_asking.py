"""Who is told that there is CUDA, and who is told the truth."""

from __future__ import annotations

import pytest
import torch

import cuda_names
from accel_frameworks.torch import asking


@pytest.fixture(autouse=True, scope="module")
def redirected():
    with cuda_names.redirected():
        yield


def answers(tmp_path, source):
    """What `ask()` in a script of these lines returns or raises; it is run from a file."""
    file = tmp_path / "train.py"
    file.write_text(source, encoding="utf-8")
    space = {"__name__": "__main__", "torch": torch}
    exec(compile(source, str(file), "exec"), space)
    return space["ask"]()


@pytest.mark.parametrize(
    "body",
    [
        'return "cuda" if torch.cuda.is_available() else "cpu"',
        "return torch.cuda.is_available() and 'cuda' or 'cpu'",
        "if torch.cuda.is_available():\n        return 'cuda'\n    return 'cpu'",
        "if not torch.cuda.is_available():\n        print('slow')\n    return 'cpu'",
        "if not torch.cuda.is_available():\n        return 'cpu'\n    return 'cuda'",
        "use_cuda = torch.cuda.is_available()\n    return 'cuda' if use_cuda else 'cpu'",
        "x = torch.cuda.is_available()\n    if not x:\n        print(1)\n"
        "    return 'cuda' if x else 'cpu'",
        "x = not torch.cuda.is_available()\n    assert x\n    return 'cpu' if x else 'cuda'",
        "assert not torch.cuda.is_available()\n    return 'cpu'",
        "if torch.cuda.is_available():\n        return 'cuda'\n    elif True:\n"
        "        return 'cpu'\n    else:\n        raise RuntimeError",
        "x = torch.cuda.is_available()\n    def inner(x):\n        assert x\n"
        "    return 'cuda' if x else 'cpu'",
    ],
)
def test_a_script_with_a_way_without_cuda_takes_it_on_a_cpu(tmp_path, body):
    assert answers(tmp_path, f"def ask():\n    {body}\n") == "cpu"


@pytest.mark.parametrize(
    "body",
    [
        "assert torch.cuda.is_available(), 'GPU needed'",
        "if not torch.cuda.is_available():\n        raise RuntimeError('GPU needed')",
        "if not torch.cuda.is_available():\n        import sys; sys.exit('GPU needed')",
        "if torch.cuda.is_available():\n        pass\n    else:\n        raise SystemExit(1)",
        "if not (torch.cuda.is_available() and True):\n        exit(3)",
        "assert torch.cuda.is_available() and torch.cuda.device_count() >= 1",
        "assert torch.cuda.device_count() > 0",
        "if not torch.distributed.is_nccl_available():\n        raise RuntimeError",
        "x = torch.cuda.is_available()\n    if not x:\n        raise RuntimeError('GPU needed')",
        "x: bool = bool(torch.cuda.is_available())\n    assert x, 'GPU needed'",
        "args = lambda: 0\n    args.cuda = 1 and torch.cuda.is_available()\n    assert args.cuda",
        "if (x := torch.cuda.is_available()) is False:\n        raise SystemExit(1)",
        "x = torch.cuda.is_available()\n    if x == False:\n        raise SystemExit(1)",
        "if torch.cuda.is_available():\n        return 'went on'\n    raise RuntimeError",
        "if torch.cuda.is_available():\n        return 'went on'\n"
        "    if torch.backends.mps.is_available():\n        return 'mps'\n    raise RuntimeError",
        "if torch.cuda.is_available():\n        return 'went on'\n"
        "    elif torch.backends.mps.is_available():\n        return 'mps'\n"
        "    else:\n        raise RuntimeError",
    ],
)
def test_a_script_that_would_refuse_goes_on(tmp_path, body):
    assert answers(tmp_path, f"def ask():\n    {body}\n    return 'went on'\n") == "went on"


def test_a_main_that_would_just_return(tmp_path):
    source = """
def main():
    if not torch.cuda.is_available():
        print("no GPU")
        return
    return "trained"

ask = main
"""
    assert answers(tmp_path, source) == "trained"


def test_a_script_that_has_counted_on_cuda_is_told_yes_from_then_on():
    """ImageNet's main.py asks once more after `init_process_group("nccl")`, and wraps by it."""
    ask = "x = torch.cuda.is_available()"
    with cuda_names.redirected():
        assert cuda_names.script(ask, torch=torch)["x"] is False
        library = {"__name__": "transformers.x", "torch": torch}
        exec("torch.cuda.set_device(0)", library)
        assert cuda_names.script(ask, torch=torch)["x"] is False
        assert cuda_names.script(f"torch.cuda.set_device(0); {ask}", torch=torch)["x"] is True
        exec(ask, library)
        assert library["x"] is False
    assert cuda_names.script(ask, torch=torch)["x"] is False


@pytest.mark.parametrize(
    ("backend", "rank", "answer"),
    [
        ('"nccl"', "0", True),
        ('"cpu:gloo,cuda:nccl"', "1", True),
        ('"nccl"', None, False),
        ('"nccl" if torch.cuda.is_available() else "gloo"', "0", False),
        ("torch.cuda.nccl", "0", False),
    ],
)
def test_a_rank_of_a_script_that_knows_nccl_alone(tmp_path, monkeypatch, backend, rank, answer):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    source = f"""
import os
def ask():
    "nccl, or gloo"
    x = torch.cuda.is_available()
    backend = {backend}
    return x
"""
    assert answers(tmp_path, source) is answer


@pytest.mark.parametrize("name", ["transformers.trainer", "accelerate.state", "torch.foo", "trl"])
def test_libraries_that_know_other_devices_are_told_the_truth(name):
    library = {"__name__": name, "torch": torch}
    exec("a = torch.cuda.is_available(), torch.cuda.device_count()", library)
    assert library["a"] == (False, 0)


def test_any_installed_library_is_told_the_truth_on_a_cpu():
    space = {"__name__": "somebody", "torch": torch}
    source = "a = torch.cuda.device_count()"
    exec(compile(source, "/x/lib/python3.11/site-packages/somebody.py", "exec"), space)
    assert space["a"] == 0
    exec(compile(source, "/home/me/somebody.py", "exec"), space)
    assert space["a"] == 1


def test_on_an_accelerator_only_libraries_that_know_devices_are():
    frame = type(
        "Frame",
        (),
        {
            "f_globals": {"__name__": "somebody.cuda_only"},
            "f_code": type("Code", (), {"co_filename": "/site-packages/somebody.py"}),
        },
    )()
    assert asking.knows_devices(frame) is False
    assert asking.knows_devices(frame, any_library=True) is True
    assert asking.knows_devices(None) is True


def test_a_source_that_is_gone_or_broken_is_no_refusal(tmp_path):
    space = {"__name__": "__main__", "torch": torch}
    exec(compile("assert not torch.cuda.is_available()", "/gone.py", "exec"), space)
    file = tmp_path / "changed.py"
    file.write_text("def (", encoding="utf-8")
    exec(compile("assert not torch.cuda.is_available()", str(file), "exec"), space)
