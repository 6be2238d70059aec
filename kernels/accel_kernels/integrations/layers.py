"""Which layers of a model a checkpoint stores quantised, and how: from its config and its files.

The files have the last word. A config often does not say that a vision tower was left alone, that
the zeros are missing because all are alike, or which dtype the scales have.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from accel_kernels.checkpoint import Stored
from accel_kernels.formats import FormatError, awq, compressed_tensors, gptq
from accel_kernels.integrations import experts
from accel_kernels.layer import QuantizedLinear, Scheme, replace_linear

Config = Mapping[str, Any]
METHODS = ("awq", "gptq", "compressed-tensors")
REQUIRED = {
    "awq": awq.TENSORS,
    "gptq": gptq.TENSORS[:3],
    "compressed-tensors": compressed_tensors.TENSORS,
}
WRAPPERS = frozenset({"model", "language_model", "text_model", "transformer"})
"""Parts of names that differ between a model with a head, without one, and inside another."""
RENAMED = {"block_sparse_moe": "mlp", "feed_forward": "mlp"}
"""Parts that transformers renames while it loads."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A layer to be replaced: `name` in the model, `prefix` and tensors in the checkpoint."""

    name: str
    scheme: Scheme
    prefix: str = ""
    tensors: Mapping[str, Stored] = dataclasses.field(default_factory=dict)


def scheme_of(config: Config) -> Scheme:
    """The scheme of a checkpoint's `quantization_config`, as a dict.

    Raises FormatError for formats that are not served.
    """
    method = str(config.get("quant_method", "")).lower()
    if method == "awq":
        version = str(config.get("version") or config.get("format") or "gemm").lower()
        if version != "gemm":
            raise FormatError("of AWQ's layouts only 'gemm' is served", found=version)
        return Scheme("awq", _number(config, "bits", 4), _number(config, "group_size", 128))
    if method == "gptq":
        stored = str(config.get("checkpoint_format") or config.get("format") or "gptq").lower()
        if stored not in ("gptq", "gptq_v2"):
            raise FormatError("of GPTQ's layouts 'gptq' and 'gptq_v2' are served", found=stored)
        return Scheme(
            "gptq",
            _number(config, "bits", 4),
            _number(config, "group_size", 128),
            v1=stored == "gptq",
            sym=bool(config.get("sym", False)),
        )
    return _scheme_of_groups(config)


def _number(config: Config, key: str, default: int) -> int:
    value = config.get(key)
    try:
        return default if value is None else int(value)
    except (TypeError, ValueError):
        raise FormatError(
            f"quantization_config.{key} must be a number", found=repr(value)
        ) from None


def _scheme_of_groups(config: Config) -> Scheme:
    groups = config.get("config_groups") or {}
    weights = [group.get("weights") or {} for group in groups.values()]
    inputs = [group for group in groups.values() if group.get("input_activations")]
    if config.get("format") != "pack-quantized" or len(weights) != 1 or inputs:
        raise FormatError(
            "of compressed-tensors one group in 'pack-quantized', of weights alone, is served",
            found=f"{config.get('format')}, {len(weights)} groups, {len(inputs)} of activations",
            remedy="pip install compressed-tensors, and ACCEL_QUANT=off",
        )
    sparsity = (config.get("sparsity_config") or {}).get("format") or "dense"
    transforms = (config.get("transform_config") or {}).get("config_groups") or {}
    if sparsity != "dense" or transforms:
        raise FormatError(
            "of compressed-tensors weights that are neither sparse nor rotated are served",
            found=", ".join([sparsity, *transforms]),
            remedy="pip install compressed-tensors, and ACCEL_QUANT=off",
        )
    (weight,) = weights
    return Scheme(
        "compressed-tensors",
        _number(weight, "num_bits", 4),
        _number(weight, "group_size", -1),
        asymmetric=not weight.get("symmetric", True),
        act_order=str(weight.get("actorder") or "").lower() in ("group", "true"),
    )


def scheme_for(config: Config, name: str) -> Scheme | None:
    """The scheme of one layer: GPTQModel's `dynamic` may change it, or leave the layer out (None).

    Its patterns are tried in order; the first that matches counts.
    """
    for pattern, changes in (config.get("dynamic") or {}).items():
        if re.match(pattern.removeprefix("-:").removeprefix("+:"), name):
            if pattern.startswith("-:"):
                return None
            return scheme_of({**config, **(changes or {})})
    return scheme_of(config)


def planned(
    model: nn.Module, config: Config, stored: Mapping[str, Stored], skipped: Sequence[str]
) -> list[Place]:
    """The layers to replace: those stored quantised, or where nothing is known of the files, those
    that the config names. Raises FormatError where a layer's tensors are not as the config says.
    """
    prefixes = _prefixes(stored)
    experts.split(model, prefixes, _bare)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not stored:
        return list(_by_config(linears, config, skipped))
    by_bare = {_bare(prefix): prefix for prefix in prefixes}
    found = [(name, by_bare.pop(_bare(name), None)) for name in linears]
    _refuse_experts(by_bare.values())
    places = []
    for name, prefix in found:
        if prefix is None:
            continue
        scheme = scheme_for(config, prefix) or scheme_of(config)
        place = Place(name, scheme, prefix, prefixes[prefix])
        places.append(_fitted(model.get_submodule(name), place))
    return places


def _prefixes(stored: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
    """The tensors of each quantised layer of a checkpoint, by the layer's name there."""
    words = (".qweight", ".weight_packed")
    prefixes: dict[str, dict[str, Stored]] = {
        name.rpartition(".")[0]: {} for name in stored if name.endswith(words)
    }
    for name, tensor in stored.items():
        prefix, _, key = name.rpartition(".")
        if prefix in prefixes:
            prefixes[prefix][key] = tensor
    return prefixes


def _bare(name: str) -> str:
    return ".".join(RENAMED.get(part, part) for part in name.split(".") if part not in WRAPPERS)


def _refuse_experts(unplaced: Any) -> None:
    without = [prefix for prefix in unplaced if ".experts." in prefix]
    if without:
        raise FormatError(
            "quantised experts have no layer of their own in this model",
            found=f"{len(without)} of them, the first is {without[0]}",
            remedy="pip install 'transformers<5', which keeps experts as single layers",
        )


def _fitted(linear: nn.Linear, place: Place) -> Place:
    """The place with the optional tensors that are stored; FormatError where others do not fit."""
    scheme = place.scheme
    missing = [key for key in REQUIRED[scheme.format] if key not in place.tensors]
    if missing:
        raise FormatError(
            f"{place.prefix} is quantised and lacks {', '.join(missing)}",
            found=", ".join(sorted(place.tensors)),
            remedy="fetch the checkpoint again",
        )
    scheme = dataclasses.replace(
        scheme,
        asymmetric="weight_zero_point" in place.tensors,
        act_order="weight_g_idx" in place.tensors,
    )
    expected = scheme.empty(linear.in_features, linear.out_features, torch.float16, "meta")
    for key, tensor in expected.items():
        there = place.tensors.get(key)
        if there is not None and there.shape != tuple(tensor.shape):
            raise FormatError(
                f"{place.prefix}.{key} must be {list(tensor.shape)}",
                found=f"{list(there.shape)}, with {_settings(scheme)} in config.json",
                remedy="fetch the checkpoint again, or correct bits and group_size in its config",
            )
    return dataclasses.replace(place, scheme=scheme)


def _settings(scheme: Scheme) -> str:
    return f"{scheme.format}, {scheme.bits} bits and group_size {scheme.group_size}"


def _by_config(linears: Sequence[str], config: Config, skipped: Sequence[str]) -> Iterator[Place]:
    ignored = [str(name) for name in (*skipped, *(config.get("ignore") or ()))]
    for name in linears:
        if any(_means(pattern, name) for pattern in ignored):
            continue
        scheme = scheme_for(config, name)
        if scheme is not None:
            yield Place(name, scheme)


def _means(pattern: str, name: str) -> bool:
    """Whether a pattern of a checkpoint's list means this layer: a suffix, a part, or `re:`."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], name) is not None
    return re.search(rf"(^|\.){re.escape(pattern)}($|\.)", name) is not None


def replace(model: nn.Module, place: Place, dtype: torch.dtype) -> QuantizedLinear:
    """Put an empty layer at `place`, its tensors in the dtypes that they are stored in."""
    layer = replace_linear(model, place.name, place.scheme, dtype)
    for key, tensor in layer.stored().items():
        there = place.tensors.get(key)
        if there is not None:
            wanted = tensor.to(there.dtype or tensor.dtype)
            setattr(layer, key, nn.Parameter(wanted, requires_grad=False))
        elif place.tensors:
            delattr(layer, key)
    if layer.bias is None and "bias" in place.tensors:
        # AutoGPTQ writes one for every layer, also where the model has none.
        empty = torch.empty(layer.out_features, dtype=dtype, device="meta")
        layer.bias = nn.Parameter(empty, requires_grad=False)
    return layer
