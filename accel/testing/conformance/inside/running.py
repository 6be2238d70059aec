"""Inside, for runtime.*: each check is a function of the device and of torch's calls on it.

One that needs a call which torch does not have for it is skipped and names it; one that finds the
call to mean something else raises Wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from accel.probing.child import describe
from accel.testing.conformance.inside.calls import Absent, Calls
from accel.testing.conformance.inside.computing import Wrong

Check = Callable[[str, Any], str]
MIB = 2**20
SIZE = 8 * MIB


def check(device: str, group: str) -> Iterator[dict[str, Any]]:
    """Every check of a group: first `begin`, then what became of it."""
    warnings.simplefilter("ignore")
    _choose(device)
    for name, function in GROUPS[group].items():
        yield {"begin": name}
        module = Calls(device)
        try:
            said = function(device, module)
            if module.general:
                said += f"; by torch.accelerator: {', '.join(sorted(module.general))}"
            answer = {"status": "passed", "detail": said}
        except Absent as reason:
            answer = {"status": "skipped", "detail": str(reason)}
        except BaseException as error:  # noqa: BLE001 - whatever a backend raises is its failure
            said = str(error) if isinstance(error, Wrong) else describe(error)
            answer = {"status": "failed", "detail": said}
        yield {"case": name, **answer}


def _choose(device: str) -> None:
    """Make it the current device, which calls without a device mean."""
    import torch

    index = torch.device(device).index
    if index:
        Calls(device).set_device(index)


def _calls(module: Any, *names: str) -> list[Any]:
    """The module's functions of these names. Absent names the first that it lacks."""
    for name in names:
        if not hasattr(module, name):
            raise Absent(f"{module.__name__} has no {name}, nor has torch.accelerator")
    return [getattr(module, name) for name in names]


def _expect(holds: Any, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


# device --------------------------------------------------------------------------------------


def _count(device: str, module: Any) -> str:
    import torch

    count, available = _calls(module, "device_count", "is_available")
    _expect(available(), "is_available() says no, and the device computes")
    index = torch.device(device).index or 0
    _expect(count() > index, f"device_count() is {count()}, and there is a device {index}")
    return f"{count()} devices"


def _current(device: str, module: Any) -> str:
    import torch

    current, choose = _calls(module, "current_device", "set_device")
    index = torch.device(device).index
    if index is None:
        raise Absent("this device has no number")
    choose(index)
    _expect(current() == index, f"current_device() is {current()} after set_device({index})")
    made = torch.empty(1, device=torch.device(device).type)
    _expect(made.device.index == index, f"a tensor without a number is on {made.device}")
    return f"device {index} is the current one"


def _round_trip(device: str, module: Any) -> str:
    import torch

    sent = torch.arange(1 << 16, dtype=torch.float32).reshape(256, 256)
    back = sent.to(device, non_blocking=True).t().contiguous().to("cpu").t()
    _expect(bool((back == sent).all()), "what came back is not what was sent")
    part = sent.to(device)[3:200:2, 5:]
    _expect(bool((part.cpu() == sent[3:200:2, 5:]).all()), "a strided view came back wrong")
    return "256x256 there and back, a strided view too"


def _synchronize(device: str, module: Any) -> str:
    import torch

    (wait,) = _calls(module, "synchronize")
    total = torch.ones(1000, device=device)
    for _ in range(50):
        total = total + 1
    wait()
    _expect(float(total.sum().item()) == 51000.0, "the result after synchronize() is wrong")
    return "50 operations, then synchronize()"


def _autocast(device: str, module: Any) -> str:
    import torch

    kind = torch.device(device).type
    wanted = _autocast_dtype(kind, module)
    a = torch.randn(32, 32, device=device, requires_grad=True)
    with torch.autocast(kind, dtype=wanted):
        product = a @ a
        total = product.float().sum()
    _expect(product.dtype is wanted, f"a product under autocast is {product.dtype}, not {wanted}")
    total.backward()
    _expect(a.grad is not None and a.grad.dtype is torch.float32, "the gradient is not float32")
    _expect((a.detach() @ a.detach()).dtype is torch.float32, "autocast goes on after its end")
    return f"products in {str(wanted).removeprefix('torch.')}, gradients in float32"


def _autocast_dtype(kind: str, module: Any) -> Any:
    """torch's default for the device type, or the first that the device's own list has."""
    import torch

    wanted = torch.get_autocast_dtype(kind)
    supported = getattr(module, "get_amp_supported_dtype", lambda: [wanted])()
    if wanted in supported:
        return wanted
    halves = [dtype for dtype in supported if dtype in (torch.bfloat16, torch.float16)]
    if not halves:
        raise Absent(f"autocast has no dtype on {kind}")
    return halves[0]


def _autocast_layers(device: str, module: Any) -> str:
    """What every model has: a layer with a bias, batched products, a norm and a loss."""
    import torch
    from torch.nn import functional

    kind = torch.device(device).type
    wanted = _autocast_dtype(kind, module)
    layer = torch.nn.Linear(32, 32).to(device)
    x = torch.randn(4, 8, 32, device=device)
    with torch.autocast(kind, dtype=wanted):
        hidden = layer(x)
        scores = functional.layer_norm(hidden @ hidden.transpose(1, 2), (8,))
        loss = functional.cross_entropy(scores.flatten(0, 1), torch.arange(32, device=device) % 8)
    _expect(hidden.dtype is wanted, f"a linear layer gives {hidden.dtype}, not {wanted}")
    _expect(bool(loss.isfinite().item()), "the loss is not finite")
    loss.backward()
    for name, weight in layer.named_parameters():
        grad = weight.grad
        _expect(grad is not None and grad.dtype is torch.float32, f"no float32 gradient of {name}")
    return f"linear, matmul, layer_norm, cross_entropy in {str(wanted).removeprefix('torch.')}"


def _saved(device: str, module: Any) -> str:
    import io

    import torch

    kept = torch.arange(100.0, device=device)
    file = io.BytesIO()
    torch.save({"kept": kept}, file)
    file.seek(0)
    host = torch.load(file, map_location="cpu", weights_only=True)["kept"]
    _expect(bool((host == torch.arange(100.0)).all()), "what was loaded is not what was saved")
    file.seek(0)
    there = torch.load(file, map_location=device, weights_only=True)["kept"]
    _expect(there.device.type == torch.device(device).type, f"it was loaded to {there.device}")
    return "saved, loaded to the CPU and to the device"


# memory --------------------------------------------------------------------------------------


def _allocated(device: str, module: Any) -> str:
    import torch

    (allocated,) = _calls(module, "memory_allocated")
    torch.empty(1, device=device)
    before = allocated()
    held = torch.empty(SIZE, dtype=torch.uint8, device=device)
    during = allocated()
    _expect(
        during - before >= SIZE, f"memory_allocated() grew by {during - before} for {SIZE} bytes"
    )
    del held
    after = allocated()
    _expect(after <= during - SIZE, f"memory_allocated() fell by {during - after} for {SIZE} bytes")
    return f"{SIZE >> 20} MiB up and down"


def _peak(device: str, module: Any) -> str:
    import torch

    allocated, most, reset = _calls(
        module, "memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"
    )
    torch.empty(1, device=device)
    reset()
    before = most()
    held = torch.empty(SIZE, dtype=torch.uint8, device=device)
    del held
    _expect(most() - before >= SIZE, f"max_memory_allocated() grew by {most() - before}")
    reset()
    _expect(most() <= allocated() + MIB, "reset_peak_memory_stats() leaves the old peak")
    return "remembers the peak until it is reset"


def _free(device: str, module: Any) -> str:
    (info,) = _calls(module, "mem_get_info")
    free, total = info()
    _expect(0 <= free <= total and total > MIB, f"mem_get_info() says {free} free of {total} bytes")
    return f"{free >> 20} of {total >> 20} MiB free"


def _emptied(device: str, module: Any) -> str:
    import torch

    empty, reserved, allocated = _calls(
        module, "empty_cache", "memory_reserved", "memory_allocated"
    )
    held = torch.ones(SIZE, dtype=torch.uint8, device=device)
    spare = torch.ones(SIZE, dtype=torch.uint8, device=device)
    del spare
    before = reserved()
    empty()
    _expect(
        reserved() <= before, f"empty_cache() took memory_reserved() from {before} to {reserved()}"
    )
    _expect(reserved() >= allocated(), "memory_reserved() is less than memory_allocated()")
    _expect(int(held.sum().item()) == SIZE, "empty_cache() spoiled a tensor that is held")
    return "held tensors stay"


# stream and event ----------------------------------------------------------------------------


def _ordered(device: str, module: Any) -> str:
    import torch

    make, use, current = _calls(module, "Stream", "stream", "current_stream")
    first, side = current(), make()
    a = torch.full((512, 512), 2.0, device=device)
    if hasattr(side, "wait_stream"):
        side.wait_stream(first)
    with use(side):
        b = a
        for _ in range(10):
            b = b * 1.5
    if hasattr(first, "wait_stream"):
        first.wait_stream(side)
    c = b + 1
    module.synchronize()
    _expect(
        abs(float(c[0, 0].item()) - (2.0 * 1.5**10 + 1)) < 1e-2,
        "work on two streams came out wrong",
    )
    return "a side stream after the current one, and back"


def _restored(device: str, module: Any) -> str:
    make, use, current = _calls(module, "Stream", "stream", "current_stream")
    before, side = current(), make()
    with use(side):
        _expect(current() == side, "the stream of the context is not the current one in it")
    _expect(current() == before, "the former stream does not come back")
    return "the former stream comes back"


def _recorded(device: str, module: Any) -> str:
    import torch

    make, current = _calls(module, "Event", "current_stream")
    _calls(make, "record", "synchronize", "query")
    event = make()
    a = torch.randn(512, 512, device=device)
    for _ in range(5):
        a = (a @ a).tanh()
    event.record(current())
    event.synchronize()
    _expect(event.query(), "query() says no after synchronize()")
    _expect(bool(a.isfinite().all().item()), "the work before the event came out wrong")
    return "passed after what was recorded before it"


def _elapsed(device: str, module: Any) -> str:
    import torch

    make, _ = _calls(module, "Event", "current_stream")
    _calls(make, "record", "synchronize", "elapsed_time")
    begin, end = make(enable_timing=True), make(enable_timing=True)
    a = torch.randn(512, 512, device=device)
    begin.record()
    for _ in range(20):
        a = (a @ a).tanh()
    end.record()
    end.synchronize()
    ms = begin.elapsed_time(end)
    _expect(0 <= ms < 300_000, f"20 products took {ms} ms")
    return f"{ms:.2f} ms"


# random --------------------------------------------------------------------------------------


def _seeded(device: str, module: Any) -> str:
    import torch

    def drawn(seed: int) -> Any:
        torch.manual_seed(seed)
        return torch.cat([torch.rand(500, device=device), torch.randn(500, device=device)]).cpu()

    one, again, other = drawn(7), drawn(7), drawn(8)
    _expect(bool((one == again).all()), "the same seed gives other numbers")
    _expect(not bool((one == other).all()), "another seed gives the same numbers")
    return "torch.manual_seed"


def _state(device: str, module: Any) -> str:
    import torch

    kind = torch.device(device).type
    home = torch if kind == "cpu" else module
    get, put = _calls(home, "get_rng_state", "set_rng_state")
    kept = get()
    one = torch.rand(100, device=device).cpu()
    put(kept)
    _expect(bool((torch.rand(100, device=device).cpu() == one).all()), "a state given back differs")
    _expect(not bool((torch.rand(100, device=device).cpu() == one).all()), "numbers come twice")
    return "get_rng_state, set_rng_state"


def _generator(device: str, module: Any) -> str:
    import torch

    def drawn() -> Any:
        generator = torch.Generator(device).manual_seed(3)
        return torch.rand(100, device=device, generator=generator).cpu()

    one = drawn()
    torch.rand(10, device=device)
    _expect(bool((drawn() == one).all()), "a generator of its own depends on the default one")
    return "torch.Generator"


def _distributed(device: str, module: Any) -> str:
    import torch

    torch.manual_seed(0)
    normal = torch.randn(40000, device=device).cpu().double()
    mean, spread = float(normal.mean()), float(normal.std())
    _expect(abs(mean) < 0.03 and abs(spread - 1) < 0.03, f"randn: mean {mean}, deviation {spread}")
    kept = torch.nn.functional.dropout(torch.ones(40000, device=device), 0.25).cpu()
    share = float((kept != 0).double().mean())
    _expect(abs(share - 0.75) < 0.02, f"dropout of 0.25 keeps {share:.3f}")
    _expect(bool(((kept == 0) | ((kept - 4 / 3).abs() < 1e-3)).all()), "dropout does not scale")
    return f"randn, and dropout keeps {share:.3f} of 0.75"


GROUPS: dict[str, dict[str, Check]] = {
    "device": {
        "count": _count,
        "current": _current,
        "copies": _round_trip,
        "synchronize": _synchronize,
        "autocast": _autocast,
        "autocast layers": _autocast_layers,
        "saved": _saved,
    },
    "memory": {
        "allocated": _allocated,
        "peak": _peak,
        "free": _free,
        "cache": _emptied,
    },
    "stream": {"ordered": _ordered, "restored": _restored},
    "event": {"recorded": _recorded, "elapsed": _elapsed},
    "random": {
        "seed": _seeded,
        "state": _state,
        "generator": _generator,
        "distribution": _distributed,
    },
}
