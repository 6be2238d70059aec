"""Who asks whether there is CUDA: a library that knows other devices is told the truth.

transformers, accelerate and their like ask `torch.cuda.is_available()` first and then for every
other kind of device: Yes would lead them past the device that is there. A script that was written
for CUDA alone asks nothing else: for it Yes means "the device you use is there".

On a CPU a script that has a way without CUDA takes it, as it does without accel; only one that
would refuse to go on, or divides by the number of devices, is told Yes. So are the ranks of one
that knows no backend but NCCL, and a process that has gone past the point where it would have
stopped without accel (`init_process_group("nccl")`, `torch.cuda.set_device`): the way without CUDA
is often that of a single process, and ranks would train apart.
"""

from __future__ import annotations

import functools
import os
import sys
from types import FrameType

from accel_frameworks.torch import refusals

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from accel_frameworks.torch.target import Target

OURS = frozenset(("accel", "accel_frameworks"))
AWARE = frozenset(
    (
        "accelerate",
        "apex",
        "bitsandbytes",
        "datasets",
        "deepspeed",
        "diffusers",
        "evaluate",
        "flash_attn",
        "huggingface_hub",
        "ignite",
        "intel_extension_for_pytorch",
        "kernels",
        "lightning",
        "lightning_fabric",
        "liger_kernel",
        "llamafactory",
        "optimum",
        "peft",
        "pytorch_lightning",
        "safetensors",
        "sentence_transformers",
        "sglang",
        "swift",
        "timm",
        "torch",
        "torch_mlu",
        "torch_musa",
        "torch_npu",
        "torchao",
        "torchaudio",
        "torchdata",
        "torchmetrics",
        "torchtitan",
        "torchtune",
        "torchvision",
        "transformers",
        "triton",
        "trl",
        "verl",
        "vllm",
        "xformers",
    )
)
"""Libraries that look for other devices than CUDA themselves, or are made for CUDA's own code."""


def asker() -> FrameType | None:
    """The frame that called into accel, through whatever stands between."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _top(frame) in OURS:
        frame = frame.f_back
    return frame


def own_frames() -> int:
    """How many frames of accel's lie between the function that asks and whoever called in."""
    frame: FrameType | None = sys._getframe(1)
    count = 0
    while frame is not None and _top(frame) in OURS:
        frame, count = frame.f_back, count + 1
    return count


def knows_devices(frame: FrameType | None, *, any_library: bool = False) -> bool:
    """Whether the code of `frame` belongs to a library that is to be told the truth."""
    if frame is None:
        return True
    top = _top(frame)
    if top in AWARE or top.startswith("accel_"):
        return True
    return any_library and _installed(frame.f_code.co_filename)


def rely_on(target: Target) -> None:
    """Remember it if what is being done only a script does that counts on CUDA being there."""
    target.relied_on = target.relied_on or not knows_devices(asker(), any_library=True)


def answer_is_cuda(kind: str) -> bool:
    """What a tensor on the device says to `is_cuda`, by who asks."""
    frame = asker()
    if knows_devices(frame, any_library=True):
        return False
    return kind != "cpu" or refuses_without(frame)


def refuses_without(frame: FrameType | None) -> bool:
    """Whether the code at `frame` stops if there is no CUDA: `assert`, or a branch that raises."""
    if frame is None:
        return False
    return refusals.at(frame.f_code, frame.f_lineno, frame.f_lasti)


def is_rank_of_nccl(frame: FrameType | None) -> bool:
    """Whether this is a rank, of a script that knows no other backend than NCCL."""
    if frame is None or "RANK" not in os.environ:
        return False
    return refusals.knows_nccl_alone(frame.f_code.co_filename)


def _top(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


@functools.lru_cache(maxsize=1024)
def _installed(filename: str) -> bool:
    parts = filename.replace("\\", "/").split("/")
    return "site-packages" in parts or "dist-packages" in parts
