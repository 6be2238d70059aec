"""Safetensors files without loading them: what is in there, and whether all of it is.

The header of a file says where every tensor stands, so a download that broke off is found before
anything is read, and a loader can know the names, shapes and dtypes that a checkpoint really has.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from accel_kernels.formats import FormatError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format itself."""

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file. `dtype` is None for one that this torch has no dtype for."""

    file: str
    dtype: torch.dtype | None
    shape: tuple[int, ...]
    size: int
    """Bytes."""


def header(file: str | os.PathLike[str]) -> dict[str, Stored]:
    """The tensors of a safetensors file by name.

    Raises FormatError where the file is no safetensors file, or shorter than its header says.
    """
    path = os.fspath(file)
    try:
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(length) if 0 < length <= LONGEST_HEADER else b""
            there = os.fstat(stream.fileno()).st_size
        if not text or len(text) != length:
            raise ValueError("its header is incomplete")
        entries: dict[str, Any] = json.loads(text)
        entries.pop("__metadata__", None)
        tensors = {name: _stored(path, entry) for name, entry in entries.items()}
        ends = [int(entry["data_offsets"][1]) for entry in entries.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, str(error)) from None
    wanted = 8 + length + max(ends, default=0)
    if there < wanted:
        raise _broken(path, f"{there} of {wanted} bytes: it was cut off")
    return tensors


def _stored(path: str, entry: Mapping[str, Any]) -> Stored:
    begin, end = entry["data_offsets"]
    shape = tuple(int(size) for size in entry["shape"])
    return Stored(path, DTYPES.get(entry["dtype"]), shape, int(end) - int(begin))


def _broken(path: str, found: str) -> FormatError:
    return FormatError(
        f"{path} is not a whole safetensors file",
        found=found,
        remedy="fetch this file again",
    )


def headers(files: Iterable[str | os.PathLike[str]]) -> dict[str, Stored]:
    """The tensors of all safetensors files among `files`; files of other kinds are passed over."""
    found: dict[str, Stored] = {}
    for file in files:
        if os.fspath(file).endswith(".safetensors"):
            found.update(header(file))
    return found


def shards_of(folder: Path) -> list[Path]:
    """The weight files of a model's folder, in order. Raises FormatError where there are none."""
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        others = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".gguf"))
        raise FormatError(
            f"{folder} holds no {SINGLE} and no {INDEX}",
            found=", ".join(others) or "no weights at all",
            remedy="save the model with save_pretrained(..., safe_serialization=True)",
        )
    try:
        names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({folder / name for name in names.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{index} is not an index of weights", found=str(error)) from None
    for shard in shards:
        if not shard.is_file():
            raise FormatError(f"{index} names a file that is not there", found=shard.name)
    return shards


def read(stored: Stored, name: str) -> torch.Tensor:
    """One tensor, on the CPU, in the dtype it is stored in."""
    from safetensors import safe_open

    with safe_open(stored.file, framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor
