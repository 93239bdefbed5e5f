"""Load the weights of a plain network by name; refuse missing, misshapen or unused weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steer_cli.errors import ModelError
from steer_cli.networks.products import Linear
from steer_cli.networks.refusals import check_names

LARGEST = 2**34  # elements of one tensor


class Weights:
    """The weights that a network asks for. This base class only records names and shapes; it has no tensors.

    Args:
        dtype: the network's dtype.
        device: the network's device.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.dtype, self.device = dtype, device
        self.linears: list[Linear] = []  # in the order of a pass; the head is last
        self.asked: dict[str, tuple[int, ...]] = {}  # name -> shape
        self.twice: dict[str, str] = {}  # tied names that files may still hold

    def take(self, name: str, *shape: int) -> Tensor:
        """One tensor in the network's dtype, on its device.

        Raises:
            ModelError: config.json describes a tensor too large for any file.
        """
        if prod(shape) > LARGEST:
            raise ModelError(f"config.json describes {name} as {list(shape)}, which is too large; fix it")
        self.asked[name] = shape
        return self._outlined(*shape)

    def linear(self, name: str, outputs: int, inputs: int, bias: bool, turned: bool = False) -> Linear:
        """A linear layer; `turned` if the file holds [inputs, outputs]."""
        shape = (inputs, outputs) if turned else (outputs, inputs)
        weight = self.take(f"{name}.weight", *shape)
        return self._add(weight.T if turned else weight, self.take(f"{name}.bias", outputs) if bias else None)

    def side_by_side(self, outputs: Mapping[str, int], inputs: int, bias: bool) -> Linear:
        """Several layers with the same input as one layer, their outputs side by side."""
        weights = [self.take(f"{name}.weight", count, inputs) for name, count in outputs.items()]
        biases = [self.take(f"{name}.bias", count) for name, count in outputs.items() if bias]
        return self._add(self._joined(weights), self._joined(biases) if bias else None)

    def _joined(self, tensors: Sequence[Tensor]) -> Tensor:
        return self._outlined(sum(map(len, tensors)), *tensors[0].shape[1:])

    def _outlined(self, *shape: int) -> Tensor:
        # An expanded view of one number has the shape but takes no memory. torch's meta device would do the
        # same, but takes a second to import.
        return torch.zeros((), dtype=self.dtype).expand(shape)

    def head(self, name: str, embedding: Tensor, embedding_name: str, tied: bool) -> Linear:
        """The unembedding: separate weights, or the embedding itself if they are tied."""
        if not tied:
            return self.linear(name, len(embedding), embedding.shape[1], bias=False)
        self.twice[f"{name}.weight"] = embedding_name
        return self._add(embedding, None)

    def _add(self, weight: Tensor, bias: Tensor | None) -> Linear:
        self.linears.append(Linear(weight, bias))
        return self.linears[-1]


class Checkpoint(Weights):
    """The tensors of safetensors files, memory-mapped and read when they are used.

    Args:
        files: the files of one model.
        outline: lists what the network will ask for.
        where: the model, for errors.

    Raises:
        ModelError: a file is not a safetensors file, or tensors are missing, misshapen or not used by the
            network.
    """

    def __init__(
        self, files: Sequence[Path], outline: Weights, dtype: torch.dtype, device: torch.device, where: str
    ):
        super().__init__(dtype, device)
        self._tensors: dict[str, Tensor] = {}
        for file in files:
            try:
                # The tensors are views of the mapped file, so nothing is read before it is used.
                with safe_open(file, framework="pt") as opened:
                    self._tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                reason = " ".join(str(error).split())[:160]
                raise ModelError(f"{where}: {file.name} cannot be read: {reason}") from None
        asked, prefix = outline.asked, _prefix(outline)
        # Older files omit the prefix.
        self._names = {name if name in asked else prefix + name: name for name in self._tensors}
        if next(iter(asked)) in self._tensors:
            self._names = {name: name for name in self._tensors}
        found = {name: tuple(self._tensors[stored].shape) for name, stored in self._names.items()}
        check_names(
            missing=[name for name in asked if name not in found],
            misshapen=[name for name, shape in asked.items() if found.get(name, shape) != shape],
            unexpected=[name for name in found if name not in asked and name not in outline.twice],
            where=where,
        )
        for name, other in outline.twice.items():
            if name in found and not torch.equal(self._stored(name), self._stored(other)):
                raise ModelError(
                    f"{where}: config.json ties {name} to {other}, but the weights hold two different ones; "
                    "set tie_word_embeddings to false if they are right"
                )

    def take(self, name: str, *shape: int) -> Tensor:
        return self._stored(name).to(self.device, self.dtype)

    def _joined(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors))

    def _stored(self, name: str) -> Tensor:
        return self._tensors[self._names[name]]


def _prefix(outline: Weights) -> str:
    """The prefix of all weight names but the head's."""
    first = next(iter(outline.asked))
    return first[: first.index(".") + 1]
