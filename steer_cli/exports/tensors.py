"""The tensors of a baked checkpoint: those of its source, with constants in a few of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from steer_cli.events import Progress, silent
from steer_cli.exports.places import Places
from steer_cli.exports.shards import Stored, list_tensors, read_tensor, write_tensors

FLOATS = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
BITS = {torch.float16: 11, torch.bfloat16: 8}  # of a number's leading digits


@dataclass(frozen=True)
class Tensors:
    """A checkpoint to write.

    Args:
        stored: the source's tensors.
        exact: those that are new or changed, in float32.
        final: the same as they are written.
        added: layer -> what the network adds there according to what is written first, [width].
        dtype: the type of all that hold floats; None keeps each one's own.
        two_steps: weights lose digits, so they are first written as they were: a wrong place must not
            pass for rounding.
        lost: the largest share of a constant's length that rounding takes.
    """

    stored: Mapping[str, Stored]
    exact: Mapping[str, Tensor]
    final: Mapping[str, Tensor]
    added: Mapping[int, Tensor]
    dtype: torch.dtype | None
    two_steps: bool
    lost: float

    @property
    def size(self) -> int:
        """Bytes that have to be free."""
        dtypes = (self.dtype, None) if self.two_steps else (self.dtype,)
        return max(sum(one.size(dtype) for one in self.stored.values()) for dtype in dtypes)

    @property
    def types(self) -> list[torch.dtype]:
        """The types of the changed tensors."""
        return list(dict.fromkeys(tensor.dtype for tensor in self.final.values()))

    @property
    def narrowest(self) -> torch.dtype:
        """The type that keeps the fewest digits."""
        return min(self.types, key=lambda dtype: BITS.get(dtype, 24))

    @property
    def kind(self) -> str:
        """The name of that type."""
        return str(self.narrowest).removeprefix("torch.")

    def write(self, folder: Path, finally_: bool, progress: Progress = silent) -> None:
        """Write the files, in place of those of an earlier step."""
        for file in folder.glob("model*.safetensors*"):
            file.unlink()
        made, dtype = (self.final, self.dtype) if finally_ else (self.exact, None)
        write_tensors(folder, list(self.stored.values()), made, dtype, progress)


def changed_tensors(
    files: Sequence[Path], places: Places, sums: Mapping[int, Tensor], dtype_name: str
) -> Tensors:
    """The tensors to write for these constants.

    Args:
        sums: layer -> the constant, [width].
        dtype_name: a type, or auto for that of each tensor.
    """
    stored = list_tensors(files)
    dtype: torch.dtype | None = None if dtype_name == "auto" else getattr(torch, dtype_name)
    before, exact, final = {}, {}, {}
    for bias, weight in places.zeros.items():
        exact[bias] = before[bias] = torch.zeros(stored[weight].shape[0])
        final[bias] = exact[bias].to(dtype or FLOATS.get(stored[weight].kind, torch.float32))
    for layer, name in places.layers.items():
        if name not in before:
            before[name] = read_tensor(stored[name]).float()
            final[name] = before[name].to(dtype or FLOATS.get(stored[name].kind, torch.float32))
        exact[name] = before[name] + sums[layer]
        final[name] = exact[name].to(final[name].dtype)
    added = {layer: final[name].float() - before[name] for layer, name in places.layers.items()}
    lost = max(_share_lost(rows, sums[layer]) for layer, rows in added.items())
    narrows = dtype in BITS and any(FLOATS.get(one.kind, dtype) != dtype for one in stored.values())
    # The rows of a table lose different digits.
    tables = any(final[name].ndim > 1 and final[name].dtype in BITS for name in places.layers.values())
    two_steps = narrows or tables
    one_row = {layer: rows if rows.ndim == 1 else sums[layer] for layer, rows in added.items()}
    return Tensors(stored, exact, final, dict(sums) if two_steps else one_row, dtype, two_steps, lost)


def _share_lost(rows: Tensor, constant: Tensor) -> float:
    return float((rows - constant).norm(dim=-1).max() / constant.norm())
