"""Quantised checkpoints on every device: the plugin of the kernels.

It finds no device. It offers its providers as implementations of the feature `quant`, takes the
place of transformers' loaders for AWQ, GPTQ and compressed-tensors, and lets peft and
LLaMA-Factory train what was loaded.

`ACCEL_QUANT=off` leaves those libraries' own loaders in force; `ACCEL_QUANT=accel_torch` (or
`accel_triton`, `accel_cuda`) asks for one provider by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from accel.facts import Facts, load_facts
from accel.hookspecs import hookimpl
from accel.machine import Machine
from accel.value import replaced
from accel.values import Device, Feature, Impl, Level, Note, Patch

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

    from accel.resolving import Capabilities

OWN = "accel_kernels"
PREFIX = "accel_"
OFF = "off"
ANY = "any"
TRANSFORMERS = ">=4.51,<6"
PEFT = ">=0.15,<1"


@hookimpl
def accel_capabilities(device: Device, machine: Machine) -> Iterable[Impl]:
    """The providers that the facts name for the device; plain torch for every other one."""
    facts = load_facts(OWN)
    known = facts.arch(device.arch) or facts.archs[ANY]
    return [_with_package(impl, facts, machine) for impl in known.impls]


def _with_package(impl: Impl, facts: Facts, machine: Machine) -> Impl:
    """Require the one of several packages that is there, or the first where none is."""
    packages: Sequence[str] = facts.extra["packages"].get(impl.name, ())
    if impl.requires or not packages:
        return impl
    there = next((name for name in packages if machine.version(name)), packages[0])
    return replaced(impl, requires=(there,))


@hookimpl
def accel_patches(capabilities: Capabilities, machine: Machine) -> Iterable[Patch]:
    """Loading, LoRA and LLaMA-Factory; nothing with ACCEL_QUANT=off."""
    wanted = machine.env("ACCEL_QUANT") or ""
    if wanted == OFF:
        capabilities.note(
            Note(
                level=Level.INFO,
                subject="ACCEL_QUANT=off",
                message="AWQ, GPTQ and compressed-tensors are left to transformers' packages",
                origin=OWN,
            )
        )
        return []
    return [*_loading(capabilities, wanted), *_adapters(), *_llamafactory()]


@hookimpl
def accel_commands(app: Any) -> None:
    """Add `accel quantize`."""
    from accel_kernels import command

    command.add_to(app)


def preference(capabilities: Capabilities, wanted: str) -> tuple[str, ...]:
    """Names of providers to try, best first; plain torch, which refuses nothing, is the last.

    Raises CapabilityUnavailable where the one `wanted` by name cannot be had.
    """
    if wanted:
        chosen = [capabilities.require(Feature.QUANT, wanted).name]
    else:
        offered = [impl.name for impl in ours(capabilities)]
        chosen = [name for name in offered if capabilities.supports(Feature.QUANT, name)]
    names = [name.removeprefix(PREFIX) for name in chosen]
    return tuple(dict.fromkeys([*names, "torch"]))


def ours(capabilities: Capabilities) -> list[Impl]:
    """This plugin's implementations on the device, best first."""
    named = (decision.impl for decision in capabilities.of(Feature.QUANT))
    return [impl for impl in named if impl.name.startswith(PREFIX)]


def told(capabilities: Capabilities) -> Callable[[str, Mapping[str, int], Sequence[str]], None]:
    """Hears what became of a model's layers, for the report."""

    def tell(method: str, served: Mapping[str, int], refused: Sequence[str]) -> None:
        counts = ", ".join(f"{count} by {PREFIX}{name}" for name, count in sorted(served.items()))
        capabilities.note(
            Note(
                level=Level.DOWNGRADE if refused else Level.INFO,
                subject=f"{method} checkpoint",
                message=f"quantised layers are served {counts or 'by nobody: it has none'}"
                + "".join(f"; {reason}" for reason in refused),
                origin=OWN,
            )
        )

    return tell


def _loading(capabilities: Capabilities, wanted: str) -> list[Patch]:
    def served(module: Any) -> Callable[[], None]:
        from accel_kernels.integrations.transformers import install

        return install(module, lambda: preference(capabilities, wanted), told(capabilities))

    def checked(original: Callable[..., Any]) -> Callable[..., Any]:
        from accel_kernels.integrations.transformers import checked_files

        return checked_files(original)

    return [
        Patch(
            target="transformers.quantizers.auto",
            reason="AWQ and GPTQ need gptqmodel, so a compiler, torch >= 2.14 and optimum, "
            "and trains slowly or not at all; compressed-tensors needs its own package",
            seam=served,
            distribution="transformers",
            versions=TRANSFORMERS,
            upstream="https://github.com/huggingface/transformers/issues/41567",
            until="transformers loads and trains these formats with no package, on every device",
            symptom="ImportError: Loading an AWQ quantized model requires gptqmodel. Please "
            "install it with `pip install gptqmodel`; ImportError: Loading a GPTQ quantized model "
            "requires optimum (`pip install optimum`)",
        ),
        Patch(
            target="transformers.modeling_utils:_get_resolved_checkpoint_files",
            reason="a file that was cut off ends in a message without its name, and the loader "
            "must know the dtypes that are stored",
            replace=checked,
            distribution="transformers",
            versions=TRANSFORMERS,
            upstream="https://github.com/huggingface/safetensors/issues/277",
            until="transformers names the broken file and tells quantisers about all files",
            symptom="SafetensorError: Error while deserializing header: incomplete metadata, file "
            "not fully covered; SafetensorError: Error while deserializing header: invalid header "
            "length",
        ),
    ]


def _adapters() -> list[Patch]:
    def with_adapters(name: str) -> Callable[[Any], Any]:
        def replace(original: Any) -> Any:
            from accel_kernels.integrations import peft

            return getattr(peft, name)(original)

        return replace

    lora = "peft.tuners.lora.model:LoraModel"
    links = "https://github.com/huggingface/peft/blob/v0.18.1/src/peft/"
    return [
        Patch(
            target=f"{lora}._create_new_module",
            reason="peft knows quantised layers by the classes of packages that are not there",
            replace=with_adapters("created"),
            distribution="peft",
            versions=PEFT,
            parameters=("lora_config", "adapter_name", "target"),
            upstream=f"{links}tuners/lora/model.py#L320",
            until="peft has a registry of layers that is not experimental",
            symptom="ValueError: Target module QuantizedLinear(...) is not supported. Currently, "
            "only the following modules are supported: `torch.nn.Linear`, `torch.nn.Embedding`",
        ),
        Patch(
            target="peft.tuners.tuners_utils:_maybe_include_all_linear_layers",
            reason="target_modules='all-linear' finds torch's own linear layers only",
            replace=with_adapters("all_linear"),
            distribution="peft",
            versions=PEFT,
            parameters=("peft_config", "model"),
            upstream=f"{links}tuners/tuners_utils.py#L1716",
            until="peft finds layers by what they do",
            symptom="ValueError: No `target_modules` passed but also no `target_parameters` "
            "found., with target_modules='all-linear'",
        ),
        Patch(
            target=f"{lora}._check_merge_allowed",
            reason="merging into GPTQ layers is refused, which accel's layers can do",
            replace=with_adapters("merge_allowed"),
            distribution="peft",
            versions=PEFT,
            upstream=f"{links}tuners/lora/model.py#L468",
            until="peft asks the layers and not the name of the format",
            symptom="ValueError: Cannot merge LORA layers when the model is gptq quantized",
        ),
        Patch(
            target="peft.utils.integrations:dequantize_module_weight",
            reason="DoRA asks for the base weight, which quantised layers have no attribute for",
            replace=with_adapters("dequantized"),
            distribution="peft",
            versions=PEFT,
            parameters=("module",),
            upstream=f"{links}utils/integrations.py#L48",
            until="peft dequantises what has a method for it",
            symptom="AttributeError: 'QuantizedLinear' object has no attribute 'weight', with "
            "use_dora=True",
        ),
    ]


def _llamafactory() -> list[Patch]:
    def with_demands(name: str) -> Callable[[Any], Any]:
        def replace(original: Any) -> Any:
            from accel_kernels.integrations import llamafactory

            return getattr(llamafactory, name)(original)

        return replace

    common: dict[str, Any] = {
        "distribution": "llamafactory",
        "versions": ">=0.9.4,<0.10",
        "reason": "a checkpoint is refused without autoawq or gptqmodel, which accel needs not",
        "upstream": "https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/"
        "src/llamafactory/model/model_utils/quantization.py#L117",
        "until": "LLaMA-Factory leaves such demands to transformers",
        "symptom": "importlib.metadata.PackageNotFoundError: The 'autoawq' distribution was not "
        "found and is required by this application",
    }
    quantization = "llamafactory.model.model_utils.quantization"
    return [
        Patch(
            target=f"{quantization}:configure_quantization",
            replace=with_demands("configured"),
            parameters=("config",),
            **common,
        ),
        Patch(
            target="llamafactory.extras.misc:check_version",
            replace=with_demands("version_checked"),
            parameters=("requirement",),
            **common,
        ),
    ]
