"""TorchScript, torch.compile and export go on working, and mean the device that is there."""

from __future__ import annotations

import io
import warnings
from typing import ClassVar

import pytest
import torch

import cuda_names

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*is deprecated:DeprecationWarning"
)


@pytest.fixture(autouse=True, scope="module")
def redirected():
    with cuda_names.redirected():
        yield


def makes_on_cuda(x):
    return torch.zeros(2, device="cuda") + x.to("cuda") + torch.tensor([1.0, 2.0])


class Scripted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)

    def forward(self, x):
        if x.sum() > 0:
            x = x.to("cuda:0") + torch.ones(2, device="cuda")
        return self.inner(x)


def amp_in_script(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x @ x


def test_script_of_a_function():
    scripted = torch.jit.script(makes_on_cuda)
    assert isinstance(scripted, torch.jit.ScriptFunction)
    assert scripted(torch.ones(2)).tolist() == [2, 3]
    assert 'value="cuda' not in str(scripted.graph)


def test_script_of_a_module_saved_and_loaded():
    scripted = torch.jit.script(Scripted())
    assert scripted(torch.ones(2)).device == CPU
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    assert torch.jit.load(file, map_location="cuda:0")(torch.ones(2)).device == CPU
    file.seek(0)
    assert torch.jit.load(file)(torch.ones(2)).device == CPU


def test_script_of_a_class_that_uses_names_of_its_module(tmp_path, monkeypatch):
    source = """
import torch

def doubled(x: torch.Tensor):
    return x * 2

@torch.jit.script
class Doubles:
    def __init__(self, start: torch.Tensor):
        self.value = doubled(start)
"""
    (tmp_path / "doubles.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import doubles

    assert doubles.Doubles(torch.ones(2)).value.tolist() == [2, 2]


def test_script_with_autocast():
    assert torch.jit.script(amp_in_script)(torch.ones(2, 2)).dtype is torch.bfloat16


def test_trace():
    traced = torch.jit.trace(lambda x: x.to("cuda") * 2, torch.ones(2))
    assert traced(torch.ones(2)).tolist() == [2, 2]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_in_one_graph(backend):
    torch._dynamo.reset()

    @torch.compile(backend=backend, fullgraph=True)
    def step(x):
        mask = torch.arange(2, device="cuda") + torch.tensor([1.0, 2.0], device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = x.cuda() @ torch.ones(2, 2, device=torch.device("cuda", 0))
        return y.float() + mask.to("cuda:0") + torch.zeros(2, pin_memory=False)

    x = torch.ones(2, 2, requires_grad=True)
    for _ in range(2):
        out = step(x)
        assert out.tolist() == [[3, 5], [3, 5]]
        out.sum().backward()
    assert x.grad.tolist() == [[4, 4], [4, 4]]


def test_compile_of_a_module_and_of_what_asks_torch_cuda():
    torch._dynamo.reset()
    counted = []

    def count(graph, inputs):
        counted.append(graph)
        return graph.forward

    @torch.compile(backend=count)
    def step(x):
        if torch.cuda.is_available():
            x = x + 1
        torch.cuda.synchronize()
        return x * torch.cuda.current_device() + x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert step(torch.ones(2)).tolist() in ([1, 1], [2, 2])
    assert counted


@pytest.mark.slow
def test_inductor():
    torch._dynamo.reset()
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU()).cuda()
    compiled = torch.compile(lambda x: model(x) + torch.arange(4, device="cuda"))
    x = torch.randn(2, 4, device="cuda")
    torch.testing.assert_close(compiled(x), model(x) + torch.arange(4))


def test_export():
    class Adds(torch.nn.Module):
        def forward(self, x):
            return x + torch.ones(2, device="cuda")

    exported = torch.export.export(Adds(), (torch.ones(2),))
    assert "device(type='cuda'" not in str(exported.graph)
    assert exported.module()(torch.ones(2)).tolist() == [2, 2]


def test_functional_transforms_and_hooks_see_torchs_own_functions():
    assert torch.func.vmap(lambda x: x.to("cuda") * 2)(torch.ones(3)).tolist() == [2, 2, 2]
    gradient = torch.func.grad(lambda x: (x.cuda() ** 2).sum())(torch.ones(2))
    assert gradient.tolist() == [2, 2]

    class Logged(torch.Tensor):
        seen: ClassVar[list[str]] = []

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.seen.append(func.__name__)
            return super().__torch_function__(func, types, args, kwargs or {})

    moved = torch.ones(2).as_subclass(Logged).to("cuda")
    assert type(moved) is Logged
    assert "to" in Logged.seen
