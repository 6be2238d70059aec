"""Names that assume CUDA: the portable form of each, and its fate."""

from __future__ import annotations

from accel_frameworks.lint.findings import Fate
from accel_frameworks.torch import comm, cuda_module, distributed, refusing, tensors

ACCELERATOR = "torch.accelerator"
DEVICE = "torch.accelerator.current_accelerator()"

PORTABLE = {
    "torch.cuda.is_available": f"{ACCELERATOR}.is_available",
    "torch.cuda.device_count": f"{ACCELERATOR}.device_count",
    "torch.cuda.current_device": f"{ACCELERATOR}.current_device_index",
    "torch.cuda.set_device": f"{ACCELERATOR}.set_device_index",
    "torch.cuda.device": f"{ACCELERATOR}.device_index",
    "torch.cuda.synchronize": f"{ACCELERATOR}.synchronize",
    "torch.cuda.current_stream": f"{ACCELERATOR}.current_stream",
    "torch.cuda.set_stream": f"{ACCELERATOR}.set_stream",
    "torch.cuda.stream": "with torch.Stream():",
    "torch.cuda.Stream": "torch.Stream",
    "torch.cuda.Event": "torch.Event",
    "torch.cuda.empty_cache": f"{ACCELERATOR}.empty_cache",
    "torch.cuda.mem_get_info": f"{ACCELERATOR}.get_memory_info",
    "torch.cuda.memory_allocated": f"{ACCELERATOR}.memory_allocated",
    "torch.cuda.memory_reserved": f"{ACCELERATOR}.memory_reserved",
    "torch.cuda.max_memory_allocated": f"{ACCELERATOR}.max_memory_allocated",
    "torch.cuda.max_memory_reserved": f"{ACCELERATOR}.max_memory_reserved",
    "torch.cuda.memory_stats": f"{ACCELERATOR}.memory_stats",
    "torch.cuda.reset_peak_memory_stats": f"{ACCELERATOR}.reset_peak_memory_stats",
    "torch.cuda.manual_seed": "torch.manual_seed",
    "torch.cuda.manual_seed_all": "torch.manual_seed",
    "torch.cuda.get_device_capability": "ask for the dtype: accel.auto().dtype",
    "torch.cuda.is_bf16_supported": "accel.auto().capabilities.supports('dtype', 'bfloat16')",
    "torch.cuda.amp.autocast": "torch.autocast(device.type)",
    "torch.cuda.amp.GradScaler": "torch.amp.GradScaler(device.type)",
    "torch.cuda.amp.custom_fwd": "torch.amp.custom_fwd(device_type=device.type)",
    "torch.cuda.amp.custom_bwd": "torch.amp.custom_bwd(device_type=device.type)",
    "torch.version.cuda": f"{ACCELERATOR}.is_available()",
}

_OTHERS = (
    "set_device",
    "get_device_properties",
    "get_device_capability",
    "is_available",
    "is_initialized",
    "device_count",
    "is_bf16_supported",
    "is_tf32_supported",
    "device",
    "device_of",
    "Stream",
    "Event",
    "StreamContext",
    "check_error",
    "comm",
    "cudart",
    "make_graphed_callables",
    "nccl.version",
    "default_generators",
    "init",
    "OutOfMemoryError",
    "amp",
    "amp.autocast",
    "amp.GradScaler",
    "amp.custom_fwd",
    "amp.custom_bwd",
    "memory",
    "random",
    "streams",
    "nvtx",
    "profiler",
)
REDIRECTED = frozenset(
    f"torch.cuda.{name}"
    for name in (
        *cuda_module.ACTIONS,
        *cuda_module.SEEDS,
        *_OTHERS,
        *(f"{kind}Tensor" for kind in tensors.TYPES),
    )
)
REFUSED = {
    **{name.replace(":", "."): remedy for name, remedy in refusing.REFUSED.items()},
    **{f"torch.cuda.{name}": "leave the reading out" for name in cuda_module.UNKNOWN},
    **{f"torch.cuda.nccl.{name}": comm.WITH_RANKS for name in comm.ACROSS},
}
NO_EFFECT = (
    "torch.cuda.nvtx.",
    "torch.cuda.profiler.",
    "torch.backends.cuda",
    "torch.backends.cudnn",
)

CUDA_ONLY_MODULES = {
    "cupy": "torch, or numpy",
    "cuda": "torch",
    "cudf": "pandas",
    "nvidia": "torch",
    "numba.cuda": "torch, or Triton where the device has it",
    "pycuda": "torch",
    "pynvml": f"{ACCELERATOR}.get_memory_info",
    "tensorrt": "torch.compile",
    "torch_tensorrt": "torch.compile",
    "apex": "torch.amp, torch.nn.parallel.DistributedDataParallel, torch.optim",
}

FOLLOWED = {
    distributed.INTERFACE: "GLOO_SOCKET_IFNAME, or the device's own",
    distributed.ALLOCATOR: "PYTORCH_ALLOC_CONF",
}
VISIBLE = "CUDA_VISIBLE_DEVICES"
IGNORED_PREFIXES = ("NCCL_", "TORCH_NCCL_", "CUDA_LAUNCH_BLOCKING", "CUBLAS_", "CUDA_DEVICE_ORDER")


def fate_of(name: str) -> tuple[Fate, str]:
    """What becomes of the dotted `name`, and its portable form."""
    if name in REFUSED:
        return Fate.REFUSED, REFUSED[name]
    if name == "torch.version.cuda":
        return Fate.NOT_REDIRECTED, PORTABLE[name]
    if name.startswith(NO_EFFECT):
        return Fate.NO_EFFECT, "leave it; it is about CUDA's own kernels"
    moved = _moved(name)
    if moved in REDIRECTED:
        return Fate.REDIRECTED, PORTABLE.get(moved, f"{ACCELERATOR}, or torch.get_device_module()")
    return Fate.NOT_REDIRECTED, f"{ACCELERATOR}, or torch.get_device_module()"


def _moved(name: str) -> str:
    """`torch.cuda.memory.memory_allocated` and its like by their usual name."""
    for part in ("memory", "random", "streams", "amp.autocast_mode", "amp.grad_scaler"):
        head = f"torch.cuda.{part}."
        if name.startswith(head):
            rest = name.removeprefix(head)
            return f"torch.cuda.amp.{rest}" if part.startswith("amp") else f"torch.cuda.{rest}"
    return name


def variable(name: str) -> tuple[Fate, str] | None:
    """What becomes of an environment variable; None if it is not CUDA's."""
    if name in FOLLOWED:
        return Fate.REDIRECTED, FOLLOWED[name]
    if name == VISIBLE:
        return Fate.NOT_REDIRECTED, "the vendor's variable, or ACCEL_DEVICE"
    if name.startswith(IGNORED_PREFIXES):
        return Fate.NO_EFFECT, "leave it; it is about CUDA alone"
    return None
