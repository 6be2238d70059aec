"""Every place where a tensor, a module or a storage takes a device."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch

import cuda_names

CPU = torch.device("cpu")
NAMES = ["cuda", "cuda:0", "cuda:1", torch.device("cuda"), torch.device("cuda", 0)]


@pytest.fixture(autouse=True, scope="module")
def redirected():
    with cuda_names.redirected():
        yield


@pytest.mark.parametrize("device", NAMES, ids=repr)
@pytest.mark.parametrize(
    "make",
    [
        lambda d: torch.zeros(2, device=d),
        lambda d: torch.rand(2, device=d),
        lambda d: torch.arange(3, device=d),
        lambda d: torch.full((2,), 1.5, device=d),
        lambda d: torch.empty_strided((2, 2), (2, 1), device=d),
        lambda d: torch.tensor([1.0, 2.0], device=d),
        lambda d: torch.as_tensor(np.ones(3), device=d),
        lambda d: torch.asarray([1.0], device=d),
        lambda d: torch.tril_indices(3, 3, device=d),
        lambda d: torch.hann_window(4, device=d),
        lambda d: torch.fft.fftfreq(4, device=d),
        lambda d: torch.eye(2, device=d),
        lambda d: torch.randperm(4, device=d),
        lambda d: torch.ones(2).new_zeros(3, device=d),
        lambda d: torch.ones(2).new_tensor([3.0], device=d),
        lambda d: torch.zeros_like(torch.ones(2), device=d),
        lambda d: torch.ones(2).to(d),
        lambda d: torch.ones(2).to(device=d, dtype=torch.float64),
        lambda d: torch.ones(2).to(d, torch.float64, non_blocking=True),
        lambda d: torch.ones(2).cuda(d, non_blocking=True),
        lambda d: torch.nn.Linear(2, 2, device=d).weight,
        lambda d: torch.nn.Linear(2, 2).to(d).weight,
        lambda d: torch.nn.Linear(2, 2, device="meta").to_empty(device=d).weight,
        lambda d: torch.nn.Linear(2, 2).cuda(d).weight,
        lambda d: torch.empty(2, device=d, pin_memory=False),
    ],
)
def test_whatever_takes_a_device(make, device):
    assert make(device).device == CPU


@pytest.mark.parametrize("index", [0, 1])
def test_numbers_are_cudas_devices(index):
    assert torch.ones(2).to(index).device == CPU
    assert torch.ones(2).cuda(index).device == CPU
    assert torch.nn.Linear(2, 2).to(index).weight.device == CPU
    assert torch.nn.Linear(2, 2).cuda(index).weight.device == CPU


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised():
    made = torch._empty_affine_quantized(
        [2], scale=1.0, zero_point=0, dtype=torch.qint8, device="cuda"
    )
    assert made.device == CPU


def test_what_is_not_cudas_goes_where_it_says():
    x = torch.ones(2)
    assert x.to("cpu") is x
    assert x.to(x) is x
    assert x.to(torch.float64).dtype is torch.float64
    assert x.to("meta").is_meta
    assert torch.zeros(2, device="meta").is_meta
    with pytest.raises(RuntimeError, match="nonsense"):
        x.to("nonsense")


def test_moving_again_is_the_same_tensor_and_keeps_its_gradient():
    x = torch.ones(2, device="cuda", requires_grad=True)
    assert x.is_leaf
    assert x.to("cuda") is x
    assert x.cuda() is x
    x.cuda().sum().backward()
    assert x.grad.tolist() == [1, 1]
    model = torch.nn.Linear(2, 2)
    weight = model.weight
    assert model.cuda().weight is weight


def test_sparse():
    x = torch.sparse_coo_tensor([[0, 1]], [1.0, 2.0], (2,), device="cuda", check_invariants=True)
    assert x.device == CPU
    assert x.to_dense().tolist() == [1, 2]


def test_a_default_device():
    with torch.device("cuda"):
        assert torch.ones(2).device == CPU
    torch.set_default_device("cuda:0")
    try:
        assert torch.nn.Linear(2, 2).weight.device == CPU
    finally:
        torch.set_default_device(None)


def test_pinned_memory_is_ordinary_memory():
    x = torch.ones(2)
    assert x.pin_memory() is x
    assert torch.empty(2, pin_memory=True).device == CPU
    assert torch.zeros_like(x, pin_memory=True).tolist() == [0, 0]
    assert torch.tensor([1.0], device="cuda").is_pinned() is False


def test_a_loader_that_pins():
    data = torch.utils.data.TensorDataset(torch.arange(8))
    loader = torch.utils.data.DataLoader(data, 4, pin_memory=True, pin_memory_device="cuda:0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [x.tolist() for (x,) in loader] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_old_tensor_types():
    x = torch.cuda.FloatTensor([1, 2])
    assert (x.dtype, x.device) == (torch.float32, CPU)
    assert torch.cuda.HalfTensor(2, 3).shape == (2, 3)
    assert isinstance(x, torch.cuda.FloatTensor)
    assert not isinstance(x, torch.cuda.HalfTensor)
    assert not isinstance(3, torch.cuda.FloatTensor)
    assert torch.ones(2).type(torch.cuda.LongTensor).dtype is torch.int64
    assert torch.ones(2).type("torch.cuda.DoubleTensor").dtype is torch.float64
    assert torch.ones(2).type(torch.float64).dtype is torch.float64
    assert torch.ones(2).type() == "torch.FloatTensor"


def test_the_old_default_type():
    torch.set_default_tensor_type(torch.cuda.DoubleTensor)
    try:
        assert torch.ones(1).dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_is_cuda_for_a_script_that_would_stop_and_for_a_library(tmp_path):
    source = """
assert x.is_cuda and s.is_cuda
if not x.is_cuda:
    raise TypeError
where = "cuda" if x.is_cuda else "cpu"
"""
    file = tmp_path / "script.py"
    file.write_text(source, encoding="utf-8")
    x = torch.ones(2)
    space = {"__name__": "__main__", "x": x, "s": x.untyped_storage()}
    exec(compile(source, str(file), "exec"), space)
    assert space["where"] == "cpu"
    with pytest.raises(AssertionError):
        exec(compile(source, str(file), "exec"), {**space, "__name__": "transformers.trainer"})
    with pytest.raises(AssertionError):
        exec(compile(source, str(file), "exec"), {**space, "x": torch.ones(1, device="meta")})


def test_is_cuda_on_an_accelerator():
    from accel_frameworks.torch import asking

    told = cuda_names.script("y = answer('npu'), answer('cpu')", answer=asking.answer_is_cuda)
    assert told["y"] == (True, False)


def test_storages():
    storage = torch.UntypedStorage(8, device="cuda")
    assert storage.device == CPU
    assert storage.cuda() is storage
    assert storage.pin_memory() is storage
    assert isinstance(storage, torch.UntypedStorage)


@pytest.mark.parametrize("where", ["cuda", "cuda:3", torch.device("cuda", 0)])
def test_map_location(where):
    file = io.BytesIO()
    torch.save({"w": torch.ones(2)}, file)
    file.seek(0)
    assert torch.load(file, map_location=where)["w"].tolist() == [1, 1]
    file.seek(0)
    assert torch.load(file, map_location={"cpu": "cuda:1"})["w"].device == CPU
    file.seek(0)
    moved = torch.load(file, map_location=lambda storage, location: storage.cuda(0))
    assert moved["w"].device == CPU


def test_a_checkpoint_that_was_saved_on_cuda():
    """No CUDA here to save one, so the tag is written by a package as torch's own would."""

    def tag(storage):
        return "cuda:1"

    file = io.BytesIO()
    torch.serialization.register_package(1, tag, lambda storage, location: None)
    try:
        torch.save(torch.ones(2), file)
    finally:
        registry = torch.serialization._package_registry
        registry[:] = [one for one in registry if one[1] is not tag]
    file.seek(0)
    assert torch.load(file).tolist() == [1, 1]
    file.seek(0)
    assert torch.load(file, weights_only=False).device == CPU


def test_torch_objects_pickle_copy_and_are_what_they_are():
    assert pickle.loads(pickle.dumps(torch.zeros)) is torch.zeros
    assert pickle.loads(pickle.dumps(torch.device("cuda", 1))) == torch.device("cuda", 1)
    assert isinstance(torch.device("cuda"), torch.device)
    assert isinstance(torch.nn.Parameter(torch.ones(1)).cuda(), torch.Tensor)
    model = torch.nn.Linear(2, 2).cuda()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert torch.equal(twin.weight, model.weight)
    generator = torch.Generator("cuda")
    assert isinstance(generator, torch.Generator)
    assert isinstance(torch.default_generator, torch.Generator)
    assert not isinstance(3, torch.Generator)
    assert generator.device == CPU


def test_generators_are_seeded_and_used():
    one = torch.Generator(device="cuda").manual_seed(5)
    two = torch.Generator().manual_seed(5)
    assert torch.equal(torch.randn(4, generator=one, device="cuda"), torch.randn(4, generator=two))
    state = one.get_state()
    first = torch.rand(2, generator=one)
    one.set_state(state)
    assert torch.equal(first, torch.rand(2, generator=one))


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    assert safetensors.load_file(tmp_path / "w.safetensors", device="cuda:0")["w"].device == CPU
    assert safetensors.load_file(tmp_path / "w.safetensors", device=0)["w"].device == CPU


def test_packed_sequences():
    from torch.nn.utils.rnn import PackedSequence, pack_sequence

    packed = pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    for device in ((), (0,), ("cuda:0",)):
        assert isinstance(packed.cuda(*device), PackedSequence)
    space = cuda_names.script("there = packed.is_cuda", packed=packed)
    assert space["there"] is False  # a script that has a way without CUDA
