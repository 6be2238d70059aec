"""What is CUDA's alone and cannot mean anything on another device: refused, and said so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from accel.errors import AccelError
from accel.resolving import Capabilities
from accel.values import Patch
from accel_frameworks.torch.patches import patch
from accel_frameworks.torch.target import Target

WITHOUT_GRAPHS = "call the function itself; graphs only save launch time"
REFUSED = {
    "torch.cuda:CUDAGraph": WITHOUT_GRAPHS,
    "torch.cuda:graph": WITHOUT_GRAPHS,
    "torch.cuda:graph_pool_handle": WITHOUT_GRAPHS,
    "torch.cuda:MemPool": "leave the pool out; the device's own allocator serves",
    "torch.cuda:use_mem_pool": "leave the pool out; the device's own allocator serves",
    "torch.cuda:CUDAPluggableAllocator": "leave it out; the device's own allocator serves",
    "torch.cuda:change_current_allocator": "leave it out; the device's own allocator serves",
    "torch.cuda:caching_allocator_alloc": "make a tensor with torch.empty",
    "torch.cuda:caching_allocator_delete": "delete the tensor",
    "torch.cuda:ExternalStream": "torch.cuda.Stream()",
    "torch.cuda:get_stream_from_external": "torch.cuda.Stream()",
    "torch.cuda:GreenContext": "leave it out",
    "torch.cuda:current_blas_handle": "torch.matmul",
    "torch.cuda:current_solver_handle": "torch.linalg",
    "torch.cuda:_compile_kernel": "write the operator in torch, or in Triton where there is one",
    "torch.cuda.jiterator:_create_jit_fn": "write the operator in torch; torch.compile fuses it",
    "torch.cuda.jiterator:_create_multi_output_jit_fn": "write the operator in torch; "
    "torch.compile fuses it",
    "torch.utils.cpp_extension:CUDAExtension": "torch.utils.cpp_extension.CppExtension, or the "
    "library's build for this device",
}
"""The name, and what to do instead."""

NATIVE_GRAPH = {"torch.cuda:CUDAGraph": "{}Graph", "torch.cuda:graph": "graph"}
"""What a vendor's torch module has instead, if it has it."""
GRAPH_FUNCTIONS = ("graph_pool_handle",)


def refusal(name: str, target: Target, instead_: str = "") -> AccelError:
    """The error for a name that means nothing on `target`."""
    return AccelError(
        f"{name} is CUDA's alone and means nothing on {target.kind}",
        found=f"{target.name}; CUDA's names are redirected to {target.kind}",
        remedy=instead_
        or f"guard it with torch.device(...).type == 'cuda', or use torch.{target.kind}",
    )


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """An error that says what is refused and why; or the device's own, where it has one."""
    for name, remedy in REFUSED.items():
        yield patch(name, _native_or_refused(name, target, remedy))
    yield patch("torch.utils.cpp_extension:load", lambda original: _load(original, target))
    yield patch("torch.utils.cpp_extension:load_inline", lambda original: _load(original, target))


def _native_or_refused(name: str, target: Target, remedy: str) -> Callable[[Any], Any]:
    def replace(original: Any) -> Any:
        import torch

        attribute = name.partition(":")[2]
        module = getattr(torch, target.kind, None)
        if name in NATIVE_GRAPH or attribute in GRAPH_FUNCTIONS:
            own = NATIVE_GRAPH.get(name, attribute).format(target.kind.upper())
            if target.indexed and hasattr(module, own):
                return getattr(module, own)
        return _refused(name.replace(":", "."), target, remedy, original)

    return replace


def _refused(name: str, target: Target, remedy: str, original: Any) -> Any:
    """A class, because some of these are: asking with isinstance() is no use of CUDA.

    torch 2.14's compiler asks for the function that `use_mem_pool` wraps, when it is imported.
    """

    def new(cls: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise refusal(name, target, remedy)

    content: dict[str, Any] = {"__new__": new, "__module__": "torch.cuda"}
    if hasattr(original, "__wrapped__"):
        content["__wrapped__"] = original.__wrapped__
    return type(name.rpartition(".")[2], (), content)


def _load(original: Callable[..., Any], target: Target) -> Callable[..., Any]:
    import functools

    @functools.wraps(original)
    def load(name: str, *args: Any, **kwargs: Any) -> Any:
        sources = args[0] if args else kwargs.get("sources") or []
        sources = [sources] if isinstance(sources, str) else list(sources)
        cuda = kwargs.get("cuda_sources") or kwargs.get("with_cuda") or _inline_cuda(original, args)
        if cuda or any(str(source).endswith((".cu", ".cuh")) for source in sources):
            raise refusal(f"the CUDA extension {name}", target, "build it for this device")
        return original(name, *args, **kwargs)

    return load


def _inline_cuda(original: Any, args: tuple[Any, ...]) -> bool:
    """Whether CUDA sources were given to `load_inline` by position, after the C++ ones."""
    return original.__name__ == "load_inline" and len(args) > 1 and bool(args[1])
