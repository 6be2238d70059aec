"""Checkpoints by rounding to nearest: no calibration, bounded memory, readable by others.

round_to_nearest(weight)  one layer's weight as a QuantizedWeight
plan(folder, recipe)      which layers of a model's folder, and which not and why
write(...)                the folder of the quantised model, whole or not at all
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

import accel
from accel.errors import InputError
from accel_kernels import checkpoint
from accel_kernels.checkpoint import Stored
from accel_kernels.formats import QuantizedWeight, awq, from_values, gptq, packing
from accel_kernels.quantizable import FUSED, expert_layers, linear_layers, routers

Format = Literal["awq", "gptq"]
FORMATS: tuple[Format, ...] = ("awq", "gptq")
GROUP_SIZES = (128, 64, 32)
SHARD_BYTES = 1 << 30
BAND_ELEMENTS = 1 << 24
"""Weights rounded at a time: 64 MiB in float32, a few times over."""

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to quantise; `group_size` -1 is one group for each output channel."""

    format: Format
    bits: int = 4
    group_size: int = 128

    def check(self) -> None:
        """Raise InputError for what the format cannot say."""
        if self.format not in FORMATS:
            raise InputError(
                f"{self.format!r} is no format to write",
                remedy=f"--format with one of: {', '.join(FORMATS)}",
            )
        allowed = (awq.BITS,) if self.format == "awq" else packing.BITS
        if self.bits not in allowed:
            raise InputError(
                f"{self.format} has {' or '.join(map(str, allowed))} bits",
                found=f"--bits {self.bits}",
                remedy=f"--bits {4 if 4 in allowed else allowed[0]}",
            )
        if self.group_size != -1 and (self.group_size <= 0 or self.group_size % 8):
            raise InputError(
                "a group has a multiple of 8 input features, or all of them",
                found=f"--group-size {self.group_size}",
                remedy="--group-size 128, or -1",
            )

    def refuses(self, in_features: int, out_features: int) -> str | None:
        """Why a layer of this shape is left as it is, or None."""
        run = packing.run_length(self.bits)
        if self.group_size != -1 and in_features % self.group_size:
            return f"{in_features} input features are no multiple of {self.group_size}"
        if in_features % run or out_features % run:
            return f"{in_features} x {out_features} does not fill whole words of {self.bits} bits"
        return None

    def config(self, left_out: Mapping[str, str], routers: Sequence[str] = ()) -> dict[str, Any]:
        """`quantization_config` as AutoAWQ and GPTQModel write it.

        `routers` are the last parts of the names of layers that choose experts.
        """
        common = {"quant_method": self.format, "bits": self.bits, "group_size": self.group_size}
        if self.format == "awq":
            names = ["lm_head", *routers, *left_out] if left_out or routers else None
            return {
                **common,
                "zero_point": True,
                "version": "gemm",
                "modules_to_not_convert": names,
            }
        dynamic: dict[str, Any] = {f"-:.*\\.{name}$": {} for name in routers}
        dynamic |= {f"-:^{re.escape(name)}$": {} for name in left_out}
        return {
            **common,
            "desc_act": False,
            "sym": True,
            "lm_head": False,
            "checkpoint_format": "gptq",
            "pack_dtype": "int32",
            "meta": {"quantizer": [f"accel:{accel.__version__}"]},
            **({"dynamic": dynamic} if dynamic else {}),
        }


@dataclasses.dataclass(frozen=True)
class Plan:
    """`layers` by name in the checkpoint; `left_out` with the reason for each."""

    folder: Path
    recipe: Recipe
    config: Mapping[str, Any]
    stored: Mapping[str, Stored]
    layers: tuple[str, ...]
    left_out: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Result:
    """What was written. `error` is the rounding's: relative, root mean square, of all weights."""

    output: str
    layers: int
    left_out: Mapping[str, str]
    bytes_before: int
    bytes_after: int
    error: float


def round_to_nearest(weight: torch.Tensor, recipe: Recipe) -> QuantizedWeight:
    """A linear layer's weight [N, K] on the nearest points that the format has.

    AWQ: each group's own zero, from its least to its greatest weight. GPTQ: symmetric. The scales
    are float16, and the rounding is by the scales as stored.
    """
    in_features = weight.shape[1]
    size = in_features if recipe.group_size == -1 else recipe.group_size
    groups = weight.t().to(torch.float32).unflatten(0, (-1, size))
    scales, zeros = _grid(groups, recipe)
    points = groups / scales.to(torch.float32)[:, None] + zeros[:, None]
    values = points.round().clamp(0, (1 << recipe.bits) - 1).flatten(0, 1)
    return from_values(
        values.to(torch.uint8), zeros.to(torch.uint8), scales, bits=recipe.bits, group_size=size
    )


def _grid(groups: torch.Tensor, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """float16 scales and whole zeros [G, N] for weights [G, size, N]."""
    top, middle = (1 << recipe.bits) - 1, 1 << (recipe.bits - 1)
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    if recipe.format == "awq":
        exact = (high - low) / top
    else:
        exact = torch.maximum(-low / middle, high / (middle - 1))
    tiny = torch.finfo(torch.float16).smallest_normal
    # A group of nothing but zeros stays zero with any scale.
    scales = exact.clamp(tiny, torch.finfo(torch.float16).max).to(torch.float16)
    if recipe.format == "awq":
        return scales, (-low / scales.to(torch.float32)).round().clamp(0, top)
    return scales, torch.full_like(low, middle)


def plan(folder: Path, recipe: Recipe, *, fit: bool = False) -> Plan:
    """What to do with the model in `folder`. Raises InputError where it cannot be done.

    With `fit` the group size is the largest of GROUP_SIZES that divides every layer's input
    features, if one does.
    """
    recipe.check()
    config = _config_of(folder)
    stored = checkpoint.headers(checkpoint.shards_of(folder))
    names = dict.fromkeys([*linear_layers(folder), *expert_layers(stored)])
    shapes = {name: stored.get(f"{name}.weight") for name in names}
    if fit:
        widths = {found.shape[1] for found in shapes.values() if found is not None}
        fitting = (size for size in GROUP_SIZES if all(width % size == 0 for width in widths))
        recipe = dataclasses.replace(recipe, group_size=next(fitting, recipe.group_size))
    reasons = {name: _reason(recipe, found) for name, found in shapes.items()}
    left_out = {name: reason for name, reason in reasons.items() if reason is not None}
    left_out |= {name: "one tensor for all experts" for name in stored if FUSED.search(name)}
    layers = tuple(name for name in shapes if name not in left_out)
    if not layers:
        raise InputError(
            f"no layer of {folder} can be quantised so",
            found="; ".join(sorted(set(left_out.values()))) or "no linear layer in any block",
            remedy="--group-size 64 or 32, or -1 for whole channels",
        )
    return Plan(folder, recipe, config, stored, layers, left_out)


def _reason(recipe: Recipe, weight: Stored | None) -> str | None:
    """Why a layer is left as it is, or None."""
    if weight is None:
        return "its weight is not in the checkpoint under that name"
    if weight.dtype is None or not weight.dtype.is_floating_point:
        return "its weight is not in floating point"
    out_features, in_features = weight.shape
    return recipe.refuses(in_features, out_features)


def _config_of(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"there is no model in {folder}",
            found="no config.json there" if folder.is_dir() else "no such folder",
            remedy="accel quantize FOLDER, one that save_pretrained() wrote",
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read",
            found=getattr(error, "strerror", None) or str(error),
            remedy="accel quantize FOLDER, one that save_pretrained() wrote",
        ) from None
    if not isinstance(config, dict):
        raise InputError(
            f"{path} is no model's configuration",
            found=f"a {type(config).__name__} where a mapping is expected",
            remedy="accel quantize FOLDER, one that save_pretrained() wrote",
        )
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "some way")
        raise InputError(
            f"the model in {folder} is quantised already",
            found=str(method),
            remedy="start from the model in full precision",
        )
    return config


def write(
    made: Plan, output: Path, told: Callable[[int, int, str], None] = lambda done, of, name: None
) -> Result:
    """Write the quantised model to `output`, which appears when it is complete.

    `told` hears (layers done, of how many, the last one's name). Raises InputError where `output`
    is there already or cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(
            f"{output} is there already", remedy="--output with a folder that is not there yet"
        )
    draft = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        shards = _Shards(draft)
        error = _write_weights(made, shards, told)
        shards.finish()
        _write_others(made, draft)
        os.replace(draft, output)
    except OSError as error_:
        raise InputError(
            f"{output} cannot be written",
            found=error_.strerror or str(error_),
            remedy="--output with a folder on a disk with room",
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    before = sum(tensor.size for tensor in made.stored.values())
    return Result(str(output), len(made.layers), dict(made.left_out), before, shards.total, error)


def _write_weights(made: Plan, shards: _Shards, told: Callable[[int, int, str], None]) -> float:
    """Every tensor of the checkpoint, quantised or as it is; the relative error."""
    names = {f"{name}.weight": name for name in made.layers}
    lost = whole = 0.0
    done = 0
    for key, tensor in _tensors(made.stored):
        name = names.get(key)
        if name is None:
            shards.add(key, tensor)
            continue
        tensors, missed, size = _layer(tensor, made.recipe)
        lost, whole, done = lost + missed, whole + size, done + 1
        for part, value in tensors.items():
            shards.add(f"{name}.{part}", value)
        told(done, len(names), name)
    return float((lost / whole) ** 0.5) if whole else 0.0


def _tensors(stored: Mapping[str, Stored]) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors, file by file, one in memory at a time."""
    from safetensors import safe_open

    for file in sorted({tensor.file for tensor in stored.values()}):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - no mapping
                yield key, opened.get_tensor(key)


def _layer(weight: torch.Tensor, recipe: Recipe) -> tuple[dict[str, torch.Tensor], float, float]:
    """A layer's tensors in the format, and the squares of what was lost and of the whole."""
    lost = whole = 0.0
    parts: list[dict[str, torch.Tensor]] = []
    run = 32
    width = max(run, BAND_ELEMENTS // weight.shape[1] // run * run)
    for start in range(0, weight.shape[0], width):
        band = weight[start : start + width].to(torch.float32)
        rounded = round_to_nearest(band, recipe)
        lost += float((rounded.dequantize().t() - band).square().sum())
        whole += float(band.square().sum())
        parts.append(awq.write(rounded) if recipe.format == "awq" else gptq.write(rounded))
    joined = {
        key: parts[0][key] if key == "g_idx" else torch.cat([part[key] for part in parts], 1)
        for key in parts[0]
    }
    return joined, lost, whole


class _Shards:
    """Files of at most about SHARD_BYTES, named and indexed when their number is known."""

    def __init__(self, folder: Path) -> None:
        self.total = 0
        self._folder = folder
        self._held: dict[str, torch.Tensor] = {}
        self._size = 0
        self._names: list[list[str]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self._held and self._size + size > SHARD_BYTES:
            self._flush()
        self._held[name] = tensor.contiguous()
        self._size += size
        self.total += size

    def _flush(self) -> None:
        from safetensors.torch import save_file

        path = self._folder / f"{len(self._names)}.part"
        save_file(self._held, path, metadata={"format": "pt"})
        path.chmod(_usual_mode())
        self._names.append(list(self._held))
        self._held, self._size = {}, 0

    def finish(self) -> None:
        """Write what is left, then the names and the index."""
        if self._held or not self._names:
            self._flush()
        count = len(self._names)
        files = [
            checkpoint.SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
            for number in range(1, count + 1)
        ]
        for number, file in enumerate(files):
            (self._folder / f"{number}.part").rename(self._folder / file)
        if count > 1:
            weights = {
                name: file for file, names in zip(files, self._names, strict=True) for name in names
            }
            _write_json(
                self._folder / checkpoint.INDEX,
                {"metadata": {"total_size": self.total}, "weight_map": weights},
            )


def _usual_mode() -> int:
    """What a new file would have; safetensors keeps its own to the owner."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _write_others(made: Plan, draft: Path) -> None:
    """config.json, quantize_config.json for GPTQ's readers, the tokenizer and all other files."""
    quantized = made.recipe.config(made.left_out, routers(made.stored))
    _write_json(draft / "config.json", {**made.config, "quantization_config": quantized})
    if made.recipe.format == "gptq":
        _write_json(draft / "quantize_config.json", quantized)
    for path in sorted(made.folder.iterdir()):
        known = path.name in ("config.json", checkpoint.INDEX)
        if path.is_file() and not known and path.suffix not in WEIGHT_FILES:
            with contextlib.suppress(FileNotFoundError):  # a dangling link of a model cache
                shutil.copyfile(path, draft / path.name)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
