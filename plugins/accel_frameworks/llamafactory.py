"""LLaMA-Factory: its requests and flags answered by the device, its ranks served, its command."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping

from accel.hookspecs import hookimpl
from accel.values import Device, Feature, Level, Note, Patch
from accel_frameworks import llamafactory_device, llamafactory_flags, llamafactory_webui
from accel_frameworks.ranks import start_llamafactory

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

DISTRIBUTION = "llamafactory"
VERSIONS = ">=0.9.4,<0.10"
ISSUES = "https://github.com/hiyouga/LLaMA-Factory/issues"

ATTENTION_OF = {
    "fa2": "flash_attention_2",
    "fa3": "flash_attention_3",
    "sdpa": "sdpa",
    "disabled": "eager",
}
FLASH_ATTN_OF = {name: flag for flag, name in ATTENTION_OF.items()}
EAGER_INSTEAD_OF_SDPA = ("gemma2", "youtu", "youtu_vl")
"""Model types that LLaMA-Factory itself keeps away from SDPA."""


@hookimpl
def accel_patches(device: Device, capabilities: Capabilities) -> Iterable[Patch]:
    """Every question to `capabilities` that could start a probe waits until it is asked."""
    patches = _ranks(capabilities)
    if capabilities.of(Feature.ATTENTION):
        patches.append(_attention(capabilities))
    if capabilities.of(Feature.DTYPE):
        patches.append(_flags(capabilities))
    patches += llamafactory_flags.patches(capabilities)
    patches += llamafactory_webui.patches(capabilities)
    return [*patches, *llamafactory_device.patches(capabilities)]


@hookimpl
def accel_commands(app: Any) -> None:
    """Add `accel llamafactory`."""
    from accel_frameworks import llamafactory_command

    llamafactory_command.add_to(app)


def _ranks(capabilities: Capabilities) -> list[Patch]:
    upstream = "https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/launcher.py"
    started = Patch(
        target="llamafactory.launcher:launch",
        reason="it executes itself again under torchrun, and the web page starts the command "
        "line: what was repaired in this process is lost in those; and it starts torchrun by its "
        "bare name, which is not this environment's unless that is activated",
        replace=lambda original: _launched(original, environment(capabilities)),
        distribution=DISTRIBUTION,
        versions=VERSIONS,
        upstream=upstream,
        until="LLaMA-Factory starts its ranks through something that can be told",
        symptom="ValueError: Your setup doesn't support bf16/gpu, from a rank, although the same "
        "job runs in one process",
    )
    ranks = Patch(
        target="llamafactory.launcher:__file__",
        reason="the file it has torchrun start in each rank knows nothing of accel; where torch "
        "may not load its bridges, nothing else would repair the rank",
        replace=lambda original: start_llamafactory.__file__,
        distribution=DISTRIBUTION,
        versions=VERSIONS,
        upstream=upstream,
        until="LLaMA-Factory starts its ranks through something that can be told",
        symptom="a rank that behaves as without accel, with TORCH_DEVICE_BACKEND_AUTOLOAD=0",
    )
    return [started, ranks]


def environment(capabilities: Capabilities) -> dict[str, str]:
    """What a child process needs in order to come to the same choices."""
    variables = {"ACCEL_AUTO": "1", "ACCEL_DEVICE": capabilities.device.kind}
    for feature, name in capabilities.wanted.items():
        variables[f"ACCEL_{feature.value.upper()}"] = name
    if capabilities.strict:
        variables["ACCEL_STRICT"] = "1"
    if capabilities.device.kind != "cuda":
        # LLaMA-Factory's own switch for what it exports to the ranks: CUDA's allocator and NCCL
        variables["OPTIM_TORCH"] = "0"
    return variables


def _launched(original: Callable[..., None], variables: Mapping[str, str]) -> Callable[..., None]:
    @functools.wraps(original)
    def launch() -> None:
        added = {name: value for name, value in variables.items() if not os.environ.get(name)}
        before = {name: os.environ.get(name) for name in (*added, "PATH")}
        os.environ.update(added, PATH=own_programs_first(os.environ.get("PATH", "")))
        try:
            original()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    return launch


def own_programs_first(path: str) -> str:
    """`path` with this interpreter's folder in front, if that is where its torchrun is.

    LLaMA-Factory starts `torchrun` by its bare name: without an activated environment that is
    not found, or is another environment's.
    """
    import shutil  # costs milliseconds, and only a launcher needs it

    here = os.path.dirname(sys.executable)
    own = shutil.which("torchrun", path=here)
    if own is None or shutil.which("torchrun", path=path) == own:
        return path
    return os.pathsep.join([here, path]) if path else here


def _flags(capabilities: Capabilities) -> Patch:
    return Patch(
        target="llamafactory.extras.misc",
        reason="two flags, read once at import, decide the dtype that models are loaded in: "
        "float16 only for two vendors, bfloat16 also where it is emulated",
        seam=lambda module: _set_flags(module, capabilities),
        distribution=DISTRIBUTION,
        versions=VERSIONS,
        upstream=f"{ISSUES}/6429",
        until="LLaMA-Factory asks when it needs to know",
        symptom="a half-precision checkpoint that takes twice its size: it is loaded in float32 on "
        "a device that has float16",
    )


def _set_flags(module: Any, capabilities: Capabilities) -> Callable[[], None]:
    # A seam, because the values are True and False: every module has "copies" of those.
    names = ("_is_bf16_available", "_is_fp16_available")
    before = {name: getattr(module, name) for name in names}
    module._is_bf16_available, module._is_fp16_available = loading_flags(capabilities)

    def undo() -> None:
        for name, value in before.items():
            setattr(module, name, value)

    return undo


def loading_flags(capabilities: Capabilities) -> tuple[bool, bool]:
    """Whether a model may be loaded in (bfloat16, float16) where nobody named a dtype.

    On a CPU it may not, as without accel: float32 is what LLaMA-Factory takes there.
    """
    own = capabilities.wanted.get(Feature.DTYPE)
    if own is not None:
        return own == "bfloat16", own == "float16"
    if capabilities.device.kind == "cpu":
        return False, False
    return (
        capabilities.supports(Feature.DTYPE, "bfloat16"),
        capabilities.supports(Feature.DTYPE, "float16"),
    )


def _attention(capabilities: Capabilities) -> Patch:
    return Patch(
        target="llamafactory.model.model_utils.attention:configure_attn_implementation",
        reason="flash_attn: fa2 that cannot be had is only a warning, fa3 is always "
        "NotImplementedError",
        replace=lambda original: _configured(original, capabilities),
        distribution=DISTRIBUTION,
        versions=VERSIONS,
        parameters=("config", "model_args"),
        upstream="https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/"
        "src/llamafactory/model/model_utils/attention.py#L86",
        until="LLaMA-Factory falls back by itself for every flash_attn",
        symptom="NotImplementedError: Unknown attention type: fa3",
    )


def _configured(original: Callable[..., None], capabilities: Capabilities) -> Callable[..., None]:
    @functools.wraps(original)
    def configure(config: Any, model_args: Any) -> None:
        flag = model_args.flash_attn
        asked = ATTENTION_OF.get(str(getattr(flag, "value", flag)))
        if asked is None:
            original(config, model_args)
            return
        use = _settled(config, flag, asked, capabilities)
        if use == "flash_attention_3":
            config._attn_implementation = use
            return
        if use != asked and use in FLASH_ATTN_OF:
            model_args.flash_attn = type(flag)(FLASH_ATTN_OF[use])
        original(config, model_args)

    return configure


def _settled(config: Any, flag: Any, asked: str, capabilities: Capabilities) -> str:
    asked_by = f"flash_attn: {getattr(flag, 'value', flag)}"
    model_type = getattr(config, "model_type", None)
    flash = asked.startswith("flash_attention")
    if flash and model_type in EAGER_INSTEAD_OF_SDPA and not capabilities.strict:
        found = capabilities.find(Feature.ATTENTION, asked)
        if found is None or not found.accepted:
            capabilities.note(
                Note(
                    level=Level.DOWNGRADE,
                    subject=asked_by,
                    message=f"{asked} was asked for, eager is used for {model_type} on "
                    f"{capabilities.device.name}"
                    + (f": {found.reason}" if found is not None else ""),
                    remedy="strict=True makes this an error",
                    origin="accel_frameworks",
                )
            )
            return "eager"
    return capabilities.settle(Feature.ATTENTION, asked, asked_by=asked_by)
