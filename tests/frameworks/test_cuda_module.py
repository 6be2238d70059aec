"""`torch.cuda`: its functions, streams, events and memory, and what is refused."""

from __future__ import annotations

import pickle
import re
import types

import pytest
import torch

import cuda_names
from accel.errors import AccelError, CapabilityUnavailable
from accel.values import Level
from accel_frameworks.torch import refusing

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def redirected():
    with cuda_names.redirected():
        yield


def test_devices(monkeypatch):
    assert torch.cuda.current_device() == 0
    torch.cuda.set_device("cuda:2")
    assert torch.cuda.current_device() == 2
    with torch.cuda.device(1):
        assert torch.cuda.current_device() == 1
    with torch.cuda.device(None), torch.cuda.device_of(torch.ones(1)):
        assert torch.cuda.current_device() == 2
    torch.cuda.set_device(torch.device("cuda", 0))
    assert torch.cuda.current_device() == 0
    assert torch.cuda.get_device_name(0) == "Test Card"
    assert torch.cuda.get_device_capability() == (8, 0)
    properties = torch.cuda.get_device_properties("cuda")
    assert (properties.name, properties.total_memory, properties.major) == ("Test Card", 2**30, 8)
    assert properties.multi_processor_count >= 1
    with pytest.raises(AttributeError, match="Test Card has no property"):
        _ = properties.shared_memory_per_block
    torch.cuda.init()
    torch.cuda.synchronize()
    torch.cuda.synchronize("cuda:0")
    torch.cuda.ipc_collect()
    assert torch.cuda.can_device_access_peer(0, 1) is False
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert cuda_names.script("n = torch.cuda.device_count()", torch=torch)["n"] == 3


@pytest.mark.parametrize(
    ("dtypes", "capability"),
    [
        (("bfloat16", "float16", "float32"), (8, 0)),
        (("float16", "float32"), (7, 0)),
        (("float32",), (6, 1)),
    ],
)
def test_a_capability_says_which_dtypes_there_are(dtypes, capability):
    from accel_frameworks.torch.backing import Backing
    from accel_frameworks.torch.target import Target

    backing = Backing(Target("cpu", "x"), cuda_names.capabilities(*dtypes))
    assert backing.get_device_capability() == capability
    assert backing.is_bf16_supported() is ("bfloat16" in dtypes)


def test_what_a_devices_module_lacks_is_answered_from_what_is_known():
    from accel_frameworks.torch.backing import Backing, Properties
    from accel_frameworks.torch.target import Target

    backing = Backing(Target("meta", "Test Card"), cuda_names.capabilities(kind="meta"))
    seeds = []
    backing.module = types.SimpleNamespace(manual_seed=seeds.append, manual_seed_all=seeds.append)
    assert backing.function("get_device_name")(0) == "Test Card"
    properties = Properties(backing.function("get_device_properties")(0), backing)
    assert (properties.name, properties.total_memory) == ("Test Card", 2**30)
    side = object()
    assert backing.function("stream")(side) is side  # a torch.Stream can be entered
    with backing.function("stream")(None):
        pass
    backing.function("seed")()
    backing.function("seed_all")()
    assert len(set(seeds)) == 2
    with pytest.raises(AccelError, match="default_stream"):
        backing.function("default_stream")()


def test_streams_and_events():
    side = torch.cuda.Stream(priority=-1)
    assert isinstance(side, torch.cuda.Stream)
    assert torch.cuda.current_stream() is torch.cuda.default_stream()
    with torch.cuda.stream(side):
        assert torch.cuda.current_stream("cuda:0") is side
        side.wait_stream(torch.cuda.default_stream())
        x = torch.ones(2, device="cuda")
        x.record_stream(side)
    with torch.cuda.stream(None):
        assert torch.cuda.current_stream() is torch.cuda.default_stream()
    with side:
        assert torch.cuda.current_stream() is side
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with pytest.raises(ValueError, match="recorded"):
        start.elapsed_time(end)
    start.record()
    torch.ones(200, 200) @ torch.ones(200, 200)
    assert side.record_event(end) is end
    side.wait_event(end)
    assert end.query()
    assert side.query()
    end.synchronize()
    assert 0 < start.elapsed_time(end) < 60_000
    with pytest.raises(ValueError, match="enable_timing"):
        torch.cuda.Event().elapsed_time(end)
    with pytest.raises(AccelError, match="ipc_handle"):
        end.ipc_handle()
    assert isinstance(torch.cuda.stream(side), torch.cuda.StreamContext)


def test_memory_in_bytes():
    torch.cuda.reset_peak_memory_stats()
    used = torch.cuda.memory_allocated("cuda")
    assert 2**20 < used <= torch.cuda.max_memory_allocated(0)
    free, total = torch.cuda.mem_get_info()
    assert 0 < free < total
    assert torch.cuda.memory_reserved() > 0
    stats = torch.cuda.memory_stats()
    assert stats["allocated_bytes.all.peak"] >= stats["allocated_bytes.all.current"] > 0
    assert stats["num_ooms"] == 0
    nested = torch.cuda.memory_stats_as_nested_dict()
    assert nested["allocated_bytes"]["all"]["peak"] > 0
    assert "allocated_bytes.all.current" in torch.cuda.memory_summary()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.5)
    torch.cuda.reset_accumulated_memory_stats()
    assert torch.cuda.memory_snapshot() == []
    assert torch.cuda.memory_cached() > 0


def test_random_numbers_for_scripts():
    source = """
torch.cuda.manual_seed(3)
torch.cuda.manual_seed_all(3)
seed = torch.cuda.initial_seed()
state = torch.cuda.get_rng_state("cuda")
one = torch.rand(3, device="cuda")
torch.cuda.set_rng_state(state)
two = torch.rand(3, device="cuda")
torch.cuda.set_rng_state_all(torch.cuda.get_rng_state_all())
"""
    with torch.random.fork_rng(devices=["cuda:0"]):
        ran = cuda_names.script(source, torch=torch)
    assert ran["seed"] == 3
    assert torch.equal(ran["one"], ran["two"])
    assert torch.cuda.default_generators == (torch.default_generator,)


def test_a_library_that_seeds_cuda_does_not_touch_the_cpus_numbers():
    library = {"__name__": "transformers.trainer_utils", "torch": torch}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        exec("torch.cuda.manual_seed_all(1)", library)
        after = torch.rand(1)
        torch.manual_seed(7)
        assert torch.equal(after, torch.rand(1))


def test_nvtx_and_the_profilers_switches_do_nothing():
    torch.cuda.nvtx.range_push("x")
    torch.cuda.nvtx.mark("x")
    torch.cuda.nvtx.range_pop()
    with torch.cuda.nvtx.range("x {}", 3):
        pass
    torch.cuda.profiler.start()
    torch.cuda.profiler.stop()
    with torch.cuda.profiler.profile():
        pass


@pytest.mark.parametrize("name", sorted(refusing.REFUSED))
def test_what_means_nothing_here_says_so(name):
    import importlib

    module, _, attribute = name.partition(":")
    if module == "torch.utils.cpp_extension":
        pytest.importorskip("setuptools")
    function = getattr(importlib.import_module(module), attribute)
    dotted = re.escape(name.replace(":", "."))
    with pytest.raises(AccelError, match=rf"{dotted} is CUDA's alone.*(?s:.)*Test Card"):
        function()


def test_what_a_refused_name_wraps_is_there():
    """torch 2.14 asks for it when its compiler is imported."""
    import torch._dynamo.variables.torch

    assert callable(torch.cuda.use_mem_pool.__wrapped__)
    with pytest.raises(AccelError):
        torch.cuda.use_mem_pool(None)


def test_a_cuda_extension_is_refused_and_a_cpp_one_is_not(monkeypatch):
    pytest.importorskip("setuptools")
    import torch.utils.cpp_extension as ext

    with pytest.raises(AccelError, match="the CUDA extension mine"):
        ext.load("mine", ["a.cpp", "b.cu"])
    with pytest.raises(AccelError, match="the CUDA extension mine"):
        ext.load_inline("mine", cpp_sources="int f();", cuda_sources="__global__ void g(){}")
    with pytest.raises(AccelError, match="the CUDA extension mine"):
        ext.load_inline("mine", "int f();", "__global__ void g(){}")


def test_flags_of_the_backends_are_taken():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic
    q = torch.ones(1, 1, 4, 8, device="cuda")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        out = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert torch.equal(out, q)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    with (
        pytest.warns(FutureWarning),
        torch.backends.cuda.sdp_kernel(
            enable_flash=False, enable_math=False, enable_mem_efficient=True
        ),
    ):
        torch.nn.functional.scaled_dot_product_attention(q, q, q)


# Mixed precision ------------------------------------------------------------------------------


def product(context):
    with context:
        return (torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).dtype


@pytest.mark.parametrize(
    "make",
    [
        lambda **k: torch.autocast("cuda", **k),
        lambda **k: torch.autocast(device_type="cuda:0", **k),
        lambda **k: torch.amp.autocast("cuda", **k),
    ],
)
def test_autocast(make):
    assert product(make(dtype=torch.bfloat16)) is torch.bfloat16
    assert product(make(dtype=torch.bfloat16, enabled=False)) is torch.float32


@pytest.mark.filterwarnings("ignore:.*torch.cuda.amp:FutureWarning")
def test_the_old_autocast_is_the_same_class_and_has_cudas_default():
    with cuda_names_strictly("float16", "float32") as capabilities:
        assert product(torch.cuda.amp.autocast()) is torch.float16
        assert product(torch.autocast("cuda")) is torch.float16
        assert not capabilities.notes[1:]
    assert issubclass(torch.cuda.amp.autocast, torch.autocast)


def cuda_names_strictly(*dtypes, strict=False):
    return cuda_names.redirected(cuda_names.capabilities(*dtypes, strict=strict))


def test_a_dtype_that_is_not_there_is_replaced_and_said_once():
    lacking = cuda_names.capabilities("bfloat16", "float32")
    lacking = type(lacking)(
        lacking.device,
        [*(d.impl for d in lacking.decisions), refused("float16")],
        lacking_machine(),
    )
    with cuda_names.redirected(lacking):
        for _ in range(3):
            assert product(torch.autocast("cuda", dtype=torch.float16)) is torch.bfloat16
    (note,) = [n for n in lacking.notes if n.level is Level.DOWNGRADE]
    assert "float16 was asked for, bfloat16 is used" in note.message


def test_under_strict_it_is_an_error():
    strict = cuda_names.capabilities("float32", strict=True)
    strict = type(strict)(
        strict.device,
        [*(d.impl for d in strict.decisions), refused("float16")],
        lacking_machine(),
        strict=True,
    )
    with cuda_names.redirected(strict), pytest.raises(CapabilityUnavailable, match="float16"):
        torch.autocast("cuda", dtype=torch.float16)


def refused(name):
    from accel.values import Feature, Impl

    return Impl(feature=Feature.DTYPE, name=name, unavailable="not on this card")


def lacking_machine():
    from accel.machine import ThisMachine

    return ThisMachine()


@pytest.mark.filterwarnings("ignore:.*torch.cuda.amp:FutureWarning")
@pytest.mark.parametrize(
    "make", [lambda: torch.cuda.amp.GradScaler(), lambda: torch.amp.GradScaler("cuda")]
)
def test_grad_scaler_scales_and_skips(make):
    scaler = make()
    assert scaler.is_enabled()
    weight = torch.ones(2, device="cuda", requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scaler.scale((weight * 2).sum()).backward()
    assert weight.grad[0] == 2 * 2.0**16
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == [0, 0]
    weight.grad.fill_(float("inf"))
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == [0, 0]
    assert scaler.get_scale() == 2.0**15
    assert pickle.loads(pickle.dumps(scaler)).is_enabled()


@pytest.mark.filterwarnings("ignore:.*torch.cuda.amp:FutureWarning")
def test_custom_forward_and_backward():
    for into, back in (
        (torch.cuda.amp.custom_fwd, torch.cuda.amp.custom_bwd),
        (
            torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.bfloat16),
            torch.amp.custom_bwd(device_type="cuda"),
        ),
    ):

        class Twice(torch.autograd.Function):
            @staticmethod
            @into
            def forward(ctx, x):
                Twice.seen = x.dtype, torch.is_autocast_enabled("cuda")
                return x * 2

            @staticmethod
            @back
            def backward(ctx, grad):
                return grad * 2

        x = torch.ones(2, device="cuda", requires_grad=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            Twice.apply(x).sum().backward()
        assert x.grad.tolist() == [2, 2]
    assert Twice.seen == (torch.bfloat16, False)


def test_the_state_of_autocast_is_the_devices():
    assert torch.is_autocast_enabled() is False
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled()
        assert torch.is_autocast_enabled("cuda")
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cuda") is torch.bfloat16
    assert torch.amp.autocast_mode.is_autocast_available("cuda")


# Profilers, and operators of a script's own ---------------------------------------------------


def test_a_profiler_of_cuda_profiles_what_is_there():
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        torch.ones(3, device="cuda") + 1
    assert any("add" in event.key for event in profiler.key_averages())
    torch.cuda.memory._record_memory_history(max_entries=10)
    assert torch.cuda.memory._snapshot() == {}
    with pytest.raises(AccelError, match="_dump_snapshot"):
        torch.cuda.memory._dump_snapshot("x.pickle")


def test_an_operator_for_cuda_serves_the_device():
    source = """
@torch.library.custom_op("accel_tests::twice", mutates_args=(), device_types="cuda")
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2
y = twice(torch.ones(2, device="cuda"))
"""
    assert cuda_names.script(source, torch=torch)["y"].tolist() == [2, 2]
