"""AWQ, GPTQ and compressed-tensors checkpoints through `AutoModel.from_pretrained`.

`make_quantizers()` gives classes for transformers' own mapping of quantisers; they need neither
autoawq nor gptqmodel, optimum or compressed-tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from accel_kernels.formats import FormatError
from accel_kernels.layer import DEFAULT_PREFERENCE, Scheme, finish_all, replace_linears

Config = Mapping[str, Any]


def scheme_of(config: Config) -> Scheme:
    """The scheme of a checkpoint's `quantization_config`, as a dict.

    Raises FormatError for formats that are not served.
    """
    method = str(config.get("quant_method", "")).lower()
    if method == "awq":
        version = str(config.get("version") or config.get("format") or "gemm").lower()
        if version != "gemm":
            raise FormatError("of AWQ's layouts only 'gemm' is served", found=version)
        return Scheme("awq", int(config.get("bits", 4)), int(config.get("group_size", 128)))
    if method == "gptq":
        stored = str(config.get("checkpoint_format") or "gptq").lower()
        if stored not in ("gptq", "gptq_v2"):
            raise FormatError("of GPTQ's layouts 'gptq' and 'gptq_v2' are served", found=stored)
        return Scheme(
            "gptq",
            int(config["bits"]),
            int(config.get("group_size", 128)),
            v1=stored == "gptq",
            sym=bool(config.get("sym", False)),
        )
    return _scheme_of_groups(config)


def _scheme_of_groups(config: Config) -> Scheme:
    groups = config.get("config_groups") or {}
    weights = [group.get("weights") or {} for group in groups.values()]
    if config.get("format") != "pack-quantized" or len(weights) != 1:
        raise FormatError(
            "of compressed-tensors one group in 'pack-quantized' is served",
            found=f"{config.get('format')}, {len(weights)} groups",
            remedy="pip install compressed-tensors, and revert() accel for this model",
        )
    (weight,) = weights
    return Scheme(
        "compressed-tensors",
        int(weight.get("num_bits", 4)),
        int(weight.get("group_size") or -1),
        asymmetric=not weight.get("symmetric", True),
        act_order=str(weight.get("actorder") or "")
        in ("group", "True", "ActivationOrdering.GROUP"),
    )


def quantized_names(model: nn.Module, config: Config, skipped: Sequence[str]) -> list[str]:
    """The linear layers that the checkpoint stores quantised."""
    ignored = [str(name) for name in (*skipped, *(config.get("ignore") or ()))]
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    dynamic = config.get("dynamic") or {}
    left_out = [pattern[2:] for pattern in dynamic if pattern.startswith("-:")]
    return [
        name
        for name in names
        if not any(_names(pattern, name) for pattern in ignored)
        and not any(re.match(pattern, name) for pattern in left_out)
    ]


def output_layers(model: nn.Module) -> list[str]:
    """The name of the layer that gives the logits, which checkpoints leave unquantised."""
    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if module is head]


def _names(pattern: str, name: str) -> bool:
    """Whether a pattern of a checkpoint's list means this layer: a suffix, a part, or `re:`."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], name) is not None
    return re.search(rf"(^|\.){re.escape(pattern)}($|\.)", name) is not None


def make_quantizers(
    preference: Callable[[], Sequence[str]] = lambda: DEFAULT_PREFERENCE,
    told: Callable[[dict[str, int]], None] = lambda served: None,
) -> dict[str, type]:
    """A quantiser class for each of transformers' method names.

    `preference` gives the providers to try, best first, when a model is loaded; `told` hears how
    many layers each of them serves.
    """
    from transformers.quantizers.base import HfQuantizer

    class AccelQuantizer(HfQuantizer):  # type: ignore[misc]
        """Loads a checkpoint's quantised layers as QuantizedLinear."""

        requires_calibration = True
        requires_parameters_quantization = False

        def _config(self) -> Config:
            config = self.quantization_config
            found: Config = config if isinstance(config, dict) else config.to_dict()
            nested = found.get("quantization_config")
            found = nested if isinstance(nested, dict) and nested else found
            return {key: getattr(value, "value", value) for key, value in found.items()}

        def update_dtype(self, dtype: torch.dtype | None) -> torch.dtype | None:
            return dtype

        def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype | None:
            return torch_dtype or torch.float32

        def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
            config = self._config()
            kept = (config.get("modules_to_not_convert"), model._keep_in_fp32_modules)
            skipped = [name for names in kept for name in names or ()]
            if not config.get("lm_head", False):
                skipped += output_layers(model)
            dtype = getattr(model, "dtype", None) or torch.float32
            names = quantized_names(model, config, skipped)
            replace_linears(model, scheme_of(config), names, dtype)

        def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
            told(finish_all(model, preference()))
            return model

        def _dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
            return dequantize(model, dtype or torch.float32)

        def is_serializable(self, safe_serialization: Any = None) -> bool:
            return True

        @property
        def is_trainable(self) -> bool:
            return True

        @property
        def is_compileable(self) -> bool:
            return True

    return dict.fromkeys(("awq", "gptq", "compressed-tensors"), AccelQuantizer)


def dequantize(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Every quantised layer as a plain linear one, in place."""
    from accel_kernels.layer import QuantizedLinear

    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear):
            parent, _, child = name.rpartition(".")
            linear = module.to_linear(dtype)
            setattr(model.get_submodule(parent) if parent else model, child, linear)
    return model
