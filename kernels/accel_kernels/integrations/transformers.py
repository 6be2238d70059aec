"""AWQ, GPTQ and compressed-tensors checkpoints through `AutoModel.from_pretrained`.

`install()` puts classes into transformers' own tables of quantisers; they need neither autoawq nor
gptqmodel, optimum or compressed-tensors.
"""

from __future__ import annotations

import collections
import copy
import functools
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from accel_kernels import checkpoint
from accel_kernels.formats import FormatError
from accel_kernels.integrations import layers, offloading
from accel_kernels.integrations.layers import METHODS, Config, Place
from accel_kernels.layer import DEFAULT_PREFERENCE, QuantizedLinear, put

Told = Callable[[str, Mapping[str, int], Sequence[str]], None]
"""Hears the method, how many layers each provider serves, and why better ones do not."""

_resolved = threading.local()


def install(
    module: Any,
    preference: Callable[[], Sequence[str]] = lambda: DEFAULT_PREFERENCE,
    told: Told = lambda method, served, refused: None,
) -> Callable[[], None]:
    """Serve METHODS in `module`, which is transformers.quantizers.auto; returns the way back.

    `preference` gives the providers to try, best first, when a model is loaded.
    """
    quantizers, configs = module.AUTO_QUANTIZER_MAPPING, module.AUTO_QUANTIZATION_CONFIG_MAPPING
    before = [(table, dict(table)) for table in (quantizers, configs)]
    ours = make_quantizers(preference, told)
    for method in METHODS:
        quantizers[method] = ours[method]
        configs[method] = make_config(configs[method], method)

    def undo() -> None:
        for table, entries in before:
            for method in METHODS:
                table[method] = entries[method]

    return undo


def make_config(base: type, method: str) -> type:
    """A class of configurations that keeps every key of a checkpoint's, and needs no package.

    It is a `base` under the same name, so that checks for that class hold.
    """
    from transformers.utils.quantization_config import QuantizationMethod

    class Kept(base):  # type: ignore[misc]
        def __init__(self, **given: Any) -> None:
            self.__dict__.update(copy.deepcopy(given))
            self._given = tuple(given)
            self.quant_method = QuantizationMethod(method)

        @classmethod
        def from_dict(
            cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
        ) -> Any:
            nested = config_dict.get("quantization_config")
            config = cls(**(nested if isinstance(nested, dict) else config_dict))
            unused = config.update(**kwargs)
            return (config, unused) if return_unused_kwargs else config

        def to_dict(self) -> dict[str, Any]:
            keys = dict.fromkeys((*self._given, "quant_method"))
            found = {key: getattr(self, key) for key in keys if hasattr(self, key)}
            found["quant_method"] = method
            return copy.deepcopy(found)

        def to_diff_dict(self) -> dict[str, Any]:
            return self.to_dict()

        def get_loading_attributes(self) -> dict[str, Any]:
            return {}

        def change(self, key: str, value: Any) -> None:
            """Set a key that `to_dict` shall give, too."""
            setattr(self, key, value)
            self._given = (*self._given, key)

    Kept.__name__ = Kept.__qualname__ = base.__name__
    return Kept


def make_quantizers(
    preference: Callable[[], Sequence[str]] = lambda: DEFAULT_PREFERENCE,
    told: Told = lambda method, served, refused: None,
) -> dict[str, type]:
    """A quantiser class for each of transformers' method names."""
    from transformers.quantizers.base import HfQuantizer

    class AccelQuantizer(HfQuantizer):  # type: ignore[misc]
        """Loads a checkpoint's quantised layers as QuantizedLinear."""

        requires_calibration = True
        requires_parameters_quantization = False

        def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
            method = method_of(quantization_config)
            if not kwargs.get("pre_quantized", True):
                raise FormatError(
                    f"accel loads {method} checkpoints, it does not make them while loading",
                    found="a checkpoint that is not quantised",
                    remedy=f"accel quantize MODEL --format {method} --output DIR",
                )
            super().__init__(quantization_config, **kwargs)
            self.places: dict[str, Place] = {}
            self.dtypes: dict[str, torch.dtype] = {}
            self._model: Callable[[], nn.Module | None] = lambda: None

        def update_dtype(self, dtype: torch.dtype | None) -> torch.dtype | None:
            return dtype

        def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype | None:
            return torch_dtype or torch.float32

        def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
            config = as_dict(self.quantization_config)
            files = kwargs.get("checkpoint_files") or getattr(_resolved, "files", None) or ()
            _resolved.files = None
            refuse_pickles(files)
            kept = (config.get("modules_to_not_convert"), model._keep_in_fp32_modules)
            skipped = [name for names in kept for name in names or ()]
            if not config.get("lm_head", False):
                skipped += output_layers(model)
            dtype = kwargs.get("dtype") or getattr(model, "dtype", None) or torch.float32
            self.dtypes = {name: tensor.dtype for name, tensor in model.named_parameters()}
            for place in layers.planned(model, config, checkpoint.headers(files), skipped):
                layers.replace(model, place, dtype)
                self.places[place.name] = place

        def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
            wanted = tuple(preference())
            served: collections.Counter[str] = collections.Counter()
            refused: dict[str, None] = {}
            for name, place in self.places.items():
                layer = model.get_submodule(name)
                finish(layer, place, wanted)
                served[str(layer.provider)] += 1
                refused.update(dict.fromkeys(layer.refused))
            told(method_of(self.quantization_config), dict(served), tuple(refused))
            settle_dtypes(model, self.dtypes)
            self._model = weakref.ref(model)
            return dequantize(model) if wants_plain(self.quantization_config) else model

        def _dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
            return dequantize(model, dtype)

        def is_serializable(self, safe_serialization: Any = None) -> bool:
            model = self._model()
            if model is not None:
                # transformers 4 copies the config, and with it this one.
                own = getattr(model.config, "quantization_config", self.quantization_config)
                settle_config(model, own, self.places)
            return True

        @property
        def is_trainable(self) -> bool:
            return True

        @property
        def is_compileable(self) -> bool:
            return True

    return dict.fromkeys(METHODS, AccelQuantizer)


def refuse_pickles(files: Iterable[Any]) -> None:
    """Raise FormatError for a quantised checkpoint that is not in safetensors."""
    others = [str(file) for file in files if not str(file).endswith(".safetensors")]
    if others:
        raise FormatError(
            "a quantised checkpoint is read from safetensors files only",
            found=others[0],
            remedy="load it where it was made, and save_pretrained(..., safe_serialization=True)",
        )


def as_dict(config: Any) -> Config:
    """A quantisation config as a dict, whatever class it has."""
    found: Config = config if isinstance(config, dict) else config.to_dict()
    nested = found.get("quantization_config")
    found = nested if isinstance(nested, dict) and nested else found
    return {key: getattr(value, "value", value) for key, value in found.items()}


def method_of(config: Any) -> str:
    """The quantisation's name in METHODS."""
    method = getattr(config, "quant_method", "")
    return str(getattr(method, "value", method))


def wants_plain(config: Any) -> bool:
    """Whether the user asked for plain layers: `dequantize=True`, once `run_compressed=False`."""
    return bool(getattr(config, "dequantize", False)) or not getattr(config, "run_compressed", True)


def output_layers(model: nn.Module) -> list[str]:
    """The name of the layer that gives the logits, which checkpoints leave unquantised."""
    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if module is head]


def finish(layer: QuantizedLinear, place: Place, preference: Sequence[str]) -> None:
    """Finish a loaded layer: its tensors are replaced one layer at a time."""
    execution = offloading.bring_home(layer)
    for key, tensor in layer.stored().items():
        there = place.tensors.get(key)
        if there is not None and there.dtype is not None and tensor.dtype != there.dtype:
            # transformers 4 converts whatever is floating, and bfloat16 holds less than float16.
            exact = checkpoint.read(there, f"{place.prefix}.{key}").to(tensor.device)
            setattr(layer, key, nn.Parameter(exact, requires_grad=False))
    layer.requires_grad_(False)
    layer.finish(preference, execution)


def settle_dtypes(model: nn.Module, wanted: Mapping[str, torch.dtype]) -> None:
    """Convert the plain parameters that transformers 5 left in the dtype they are stored in.

    It does so, in quantised checkpoints, with all whose names it changes: those of Mixtral's
    routers and of most models that see.
    """
    fields = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
    kept = [part for field in fields for part in getattr(model, field, None) or ()]
    for name, tensor in model.named_parameters():
        dtype = wanted.get(name, tensor.dtype)
        exempt = tensor.is_meta or not tensor.is_floating_point()
        if dtype != tensor.dtype and not exempt and not any(part in name for part in kept):
            tensor.data = tensor.data.to(dtype)


def dequantize(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Every quantised layer as a plain linear one in `dtype`, or the model's own; in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear):
            put(model, name, module.to_linear(dtype))
    return model


def settle_config(model: nn.Module, config: Any, places: Iterable[str]) -> None:
    """Before a model is saved: its config must not call layers quantised that no longer are.

    They became plain when an adapter was merged into them.
    """
    kept = {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    plain = [name for name in places if name not in kept]
    if kept:
        if plain:
            _leave_out(config, plain)
    elif plain and getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
        # transformers 4 keeps a dtype there that no JSON can hold.
        model.config.__dict__.pop("_pre_quantization_dtype", None)
        model.is_quantized = False


def _leave_out(config: Any, names: Sequence[str]) -> None:
    method = method_of(config)
    if method == "gptq":
        patterns: dict[str, Any] = {f"-:^{re.escape(name)}$": {} for name in names}
        config.change("dynamic", {**patterns, **(getattr(config, "dynamic", None) or {})})
        return
    key = "modules_to_not_convert" if method == "awq" else "ignore"
    former = getattr(config, key, None) or []
    config.change(key, [*former, *(name for name in names if name not in former)])


def checked_files(original: Callable[..., Any]) -> Callable[..., Any]:
    """transformers' search for a checkpoint's files, which are now also looked at.

    A file that was cut off is an error with its name before anything is loaded.
    """

    @functools.wraps(original)
    def resolve(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        files = found[0] if isinstance(found, tuple) else found
        _resolved.files = None
        if isinstance(files, (list, tuple)):
            checkpoint.headers(files)
            _resolved.files = tuple(files)
        return found

    return resolve
