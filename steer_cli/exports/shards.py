"""Write a checkpoint's tensors, some of them changed, to new safetensors files, shard by shard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from steer_cli.events import Progress, silent
from steer_cli.models.inspect_folder import INDEX, WEIGHTS

MOST_BYTES = 5_000_000_000  # of a shard, as in transformers
# Sizes of the types in safetensors' headers; those not listed are counted as the largest.
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint."""

    name: str
    file: Path
    shape: tuple[int, ...]
    kind: str  # as safetensors writes the type

    @property
    def floats(self) -> bool:
        return self.kind in ("F64", "F32", "F16", "BF16")

    def size(self, dtype: torch.dtype | None) -> int:
        """Bytes, if it is written in this type."""
        each = dtype.itemsize if dtype is not None and self.floats else SIZES.get(self.kind, 8)
        return prod(self.shape) * each


def list_tensors(files: Sequence[Path]) -> dict[str, Stored]:
    """The tensors of a checkpoint by their names, from the files' headers."""
    found: dict[str, Stored] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                part = opened.get_slice(name)
                found[name] = Stored(name, file, tuple(part.get_shape()), part.get_dtype())
    return found


def read_tensor(stored: Stored) -> Tensor:
    """A tensor as it is stored."""
    with safe_open(stored.file, framework="pt") as opened:
        return opened.get_tensor(stored.name)


def write_tensors(
    folder: Path,
    stored: Sequence[Stored],
    made: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    progress: Progress = silent,
) -> None:
    """Write all tensors, and an index if there are several files.

    Args:
        made: tensors by their names, new ones or instead of the stored.
        dtype: the type of those that hold floats; None keeps each one's own.
    """
    sizes = {one.name: one.size(dtype) for one in stored}
    sizes |= {name: tensor.numel() * (dtype or tensor.dtype).itemsize for name, tensor in made.items()}
    shards, by_name = _shards(sizes), {one.name: one for one in stored}
    total, done = sum(sizes.values()), 0
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for name in names:
            progress("bake", done, total)
            tensor = made[name] if name in made else read_tensor(by_name[name])
            tensors[name] = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
            done += sizes[name]
        save_file(tensors, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    progress("bake", total, total)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _shards(sizes: Mapping[str, int]) -> list[list[str]]:
    """The names of each file's tensors, in order, as many as MOST_BYTES allows."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > MOST_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards
