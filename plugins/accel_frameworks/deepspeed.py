"""DeepSpeed: the configuration as the device can honour it; the user's file is never touched."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

from accel.errors import CapabilityUnavailable
from accel.hookspecs import hookimpl
from accel.value import Value
from accel.values import Device, Feature, Level, Note, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

KINDS = ("cuda", "cpu", "xpu", "npu", "mps", "hpu", "mlu", "sdaa")
"""The device types that DeepSpeed has an accelerator for, by the names of DS_ACCELERATOR."""

HALF = {"bf16": "bfloat16", "fp16": "float16"}
DTYPES = {"fp16": "float16", "bfp16": "bfloat16", "bf16": "bfloat16", "fp32": "float32"}
ADAM = ("adam", "adamw")
COMPRESSED = ("onebitadam", "zerooneadam", "onebitlamb")
COMPRESSED_OVER = ("nccl", "hccl")
"""The collectives that DeepSpeed's compressed optimisers can talk through."""

ABSENT = "absent"


class Change(Value, kw_only=False):
    """One value that is another: `before` and `after` are ABSENT where there is none."""

    path: str
    before: Any
    after: Any
    reason: str

    def __str__(self) -> str:
        import json

        before, after = (
            value if value == ABSENT else json.dumps(value) for value in (self.before, self.after)
        )
        return f"{self.path}: {before} -> {after} ({self.reason})"


@hookimpl
def accel_patches(device: Device, capabilities: Capabilities) -> Iterable[Patch]:
    """The configuration on every device, and which accelerator it is where DeepSpeed has it."""
    patches = [
        Patch(
            target="accelerate.utils.deepspeed:HfDeepSpeedConfig.__init__",
            reason="a configuration written for one card asks others for a dtype, an offload or "
            "an optimiser that they have not",
            replace=lambda original: _configured(original, capabilities),
            distribution="accelerate",
            versions=">=1.0",
            parameters=("config_file_or_dict",),
            upstream="https://www.deepspeed.ai/docs/config-json/",
            until="DeepSpeed settles its configuration for the device",
            symptom="ValueError: Type bf16 is not supported on your device.; "
            "MissingCUDAException: CUDA_HOME does not exist, unable to compile CUDA op(s)",
        )
    ]
    if device.kind in KINDS:
        patches.append(
            Patch(
                target="os:environ",
                reason="DeepSpeed guesses its accelerator from what can be imported, not from "
                "what was chosen",
                environ={"DS_ACCELERATOR": device.kind},
                distribution="deepspeed",
                versions=">=0.14",
                upstream="https://github.com/deepspeedai/DeepSpeed/blob/master/accelerator/"
                "real_accelerator.py",
                until="DeepSpeed asks torch.accelerator",
                symptom="DeepSpeed: Setting ds_accelerator to cpu (auto detect), beside a card",
            )
        )
    return patches


def _configured(original: Callable[..., None], capabilities: Capabilities) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Any, config_file_or_dict: Any) -> None:
        original(self, config_file_or_dict)
        config, changes = rewritten(self.config, capabilities)
        if not changes:
            return
        named = config_file_or_dict if isinstance(config_file_or_dict, str) else "the dict given"
        told = named if len(named) < 200 else "the text given"
        tell(told, changes, capabilities)
        self.config = config
        self.set_stage_and_offload()

    return init


def tell(named: str, changes: Iterable[Change], capabilities: Capabilities) -> None:
    """The difference as a line of the report; CapabilityUnavailable under `strict`."""
    text = "; ".join(str(change) for change in changes)
    if capabilities.strict:
        raise CapabilityUnavailable(
            f"the DeepSpeed configuration {named} cannot be had on {capabilities.device.name}",
            found=text,
            remedy="change it so, or leave strict out",
        )
    capabilities.note(
        Note(
            level=Level.DOWNGRADE,
            subject="DeepSpeed configuration",
            message=f"{named}, as {capabilities.device.name} can have it, the file itself as it "
            f"was: {text}",
            origin="accel_frameworks",
        )
    )


def rewritten(
    config: Mapping[str, Any], capabilities: Capabilities, *, compiler: bool | None = None
) -> tuple[dict[str, Any], list[Change]]:
    """A copy of `config` that the device can honour, and each thing that is different in it.

    `"auto"` is left to transformers, whose arguments have been settled already. `compiler` says
    whether DeepSpeed can build its operators for the host; None finds out.
    """
    import copy

    new = copy.deepcopy(dict(config))
    changes = [
        *_precision(new, capabilities),
        *_communication(new, capabilities),
        *_offload(new, capabilities, has_compiler() if compiler is None else compiler),
        *_optimiser(new, capabilities),
    ]
    return new, changes


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which cpu_adam is built with when it is first used."""
    import shutil

    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def _block(config: dict[str, Any], *names: str) -> dict[str, Any]:
    found: Any = config
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _precision(config: dict[str, Any], capabilities: Capabilities) -> list[Change]:
    """`bf16` and `fp16` that are on: each stays, becomes the other, or is off."""
    if not capabilities.of(Feature.DTYPE):
        return []
    changes = []
    for name, dtype in HALF.items():
        block = _block(config, name)
        if block.get("enabled") is not True or capabilities.supports(Feature.DTYPE, dtype):
            continue
        found = capabilities.find(Feature.DTYPE, dtype)
        reason = found.reason if found is not None else f"the device has no {dtype}"
        block["enabled"] = False
        changes.append(Change(f"{name}.enabled", True, False, reason))
        other = next(one for one in HALF if one != name)
        best = capabilities.best(Feature.DTYPE)
        if best is not None and best.name == HALF[other]:
            before = _block(config, other).get("enabled", ABSENT)
            config[other] = {**_block(config, other), "enabled": True}
            if before is not True:
                changes.append(Change(f"{other}.enabled", before, True, f"{best.name} instead"))
    return changes


def _communication(config: dict[str, Any], capabilities: Capabilities) -> list[Change]:
    """A type that the device's collective refuses, or that it has not, becomes float32."""
    changes = []
    best = capabilities.best(Feature.COLLECTIVE) if capabilities.of(Feature.COLLECTIVE) else None
    refused = tuple(best.impl.limits.get("refuses_dtypes", ())) if best is not None else ()
    for path in (
        ("communication_data_type",),
        ("seq_parallel_communication_data_type",),
        ("data_types", "grad_accum_dtype"),
    ):
        block = _block(config, *path[:-1]) if len(path) > 1 else config
        asked = block.get(path[-1])
        dtype = DTYPES.get(str(asked))
        if dtype is None or dtype == "float32":
            continue
        lacking = bool(capabilities.of(Feature.DTYPE)) and not capabilities.supports(
            Feature.DTYPE, dtype
        )
        if dtype in refused or lacking:
            why = f"the device has no {dtype}" if lacking else f"{best and best.name} refuses it"
            block[path[-1]] = "fp32"
            changes.append(Change(".".join(path), asked, "fp32", why))
    return changes


def _offload(config: dict[str, Any], capabilities: Capabilities, compiler: bool) -> list[Change]:
    zero = _block(config, "zero_optimization")
    changes = []
    if capabilities.device.kind == "cpu":
        for name in ("offload_optimizer", "offload_param"):
            if _block(zero, name).get("device") == "cpu":
                changes.append(
                    Change(
                        f"zero_optimization.{name}",
                        zero.pop(name),
                        ABSENT,
                        "the device is the CPU: there is nothing to offload from",
                    )
                )
        if zero.get("cpu_offload") is True:
            zero["cpu_offload"] = False
            changes.append(
                Change("zero_optimization.cpu_offload", True, False, "the device is the CPU")
            )
    offloads = _block(zero, "offload_optimizer").get("device") in ("cpu", "nvme")
    force = config.get("zero_force_ds_cpu_optimizer", ABSENT)
    if offloads and not compiler and force is not False:
        config["zero_force_ds_cpu_optimizer"] = False
        why = "cpu_adam is built when first used, and there is no C++ compiler"
        changes.append(Change("zero_force_ds_cpu_optimizer", force, False, why))
        changes += _torch_adam(config, why)
    return changes


def _optimiser(config: dict[str, Any], capabilities: Capabilities) -> list[Change]:
    """Optimisers that are CUDA code, or talk through one vendor's library."""
    optimiser = _block(config, "optimizer")
    kind = str(optimiser.get("type", "")).lower()
    changes: list[Change] = []
    collective = (
        capabilities.best(Feature.COLLECTIVE) if capabilities.of(Feature.COLLECTIVE) else None
    )
    if kind in COMPRESSED and collective and collective.name not in COMPRESSED_OVER:
        before, optimiser["type"] = optimiser["type"], "AdamW"
        reason = f"it compresses what it sends through {' or '.join(COMPRESSED_OVER)} only"
        changes.append(Change("optimizer.type", before, "AdamW", reason))
        for name in ("freeze_step", "cuda_aware", "comm_backend_name", "var_freeze_step"):
            _block(optimiser, "params").pop(name, None)
        kind = "adamw"
    offloaded = _block(config, "zero_optimization", "offload_optimizer").get("device")
    if kind in ADAM and capabilities.device.kind not in ("cuda", "npu") and not offloaded:
        changes += _torch_adam(config, "FusedAdam is built for cards that this one is not")
    return changes


def _torch_adam(config: dict[str, Any], reason: str) -> list[Change]:
    optimiser = _block(config, "optimizer")
    if str(optimiser.get("type", "")).lower() not in ADAM:
        return []
    parameters = optimiser.setdefault("params", {})
    before = parameters.get("torch_adam", ABSENT)
    if before is True:
        return []
    parameters["torch_adam"] = True
    return [Change("optimizer.params.torch_adam", before, True, reason)]
