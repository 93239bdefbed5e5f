"""The interface to a model for recording, adding, decoding and measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from steer_cli.networks.attention import Attention
from steer_cli.networks.layout import Layout
from steer_cli.networks.products import Linear

# layer -> a function from the stream that enters it, [rows, positions, width], to its replacement.
Changes = Mapping[int, Callable[[Tensor], Tensor]]

NO_CHANGES: Changes = {}


class Network(Protocol):
    """A causal language model as three functions of the residual stream.

    Layer L is the stream that enters block L; layer `depth` is the stream that leaves the last block.
    """

    depth: int  # blocks
    width: int  # of the stream
    vocabulary: int  # logits
    dtype: torch.dtype
    device: torch.device  # where the embeddings are and token ids must be
    norms_remove_mean: bool  # over the width, as LayerNorm does and RMSNorm does not

    @property
    def embeddings(self) -> int:
        """How many tokens have an embedding."""

    @property
    def on_one_gpu(self) -> bool:
        """Whether a CUDA graph can hold a whole pass."""

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """The stream that enters block 0, [rows, positions, width].

        Args:
            ids: [rows, positions].
            positions: the position of each id in its row, [rows or 1, positions].
        """

    def run(
        self, stream: Tensor, start: int, stop: int, attention: Attention, changes: Changes = NO_CHANGES
    ) -> Tensor:
        """The stream that enters block `stop`, given the one that enters block `start`.

        Args:
            changes: applied at layers `start` to `stop` - 1; others are ignored.
        """

    def unembed(self, stream: Tensor) -> Tensor:
        """Logits from the stream that leaves the last block: [..., width] -> [..., vocabulary]."""

    def next_logits(
        self, ids: Tensor, attention: Attention, changes: Changes = NO_CHANGES, ends: Tensor | None = None
    ) -> Tensor:
        """Logits of the token after each row, [rows, vocabulary], from a pass through the whole network.

        Args:
            ids: [rows, positions].
            ends: the last position of each row, [rows]; None if it is the last position of the pass.
        """

    def rows_to_run(self, rows: int, most: int, steps: int) -> int:
        """How many rows to run for the fastest decoding step over `rows` rows; see `Layout`."""

    def slots_for(self, rows: int) -> int:
        """The largest result of `rows_to_run` for a batch of at most `rows` rows."""


class Plain(Network):
    """The common base of the plain networks."""

    depth: int
    width: int
    vocabulary: int
    dtype: torch.dtype
    device: torch.device
    norms_remove_mean = False
    linears: list[Linear]  # in the order of a pass; the head is last
    layout: Layout | None = None

    @property
    def embeddings(self) -> int:
        return self.vocabulary

    @property
    def on_one_gpu(self) -> bool:
        return self.device.type == "cuda"

    def next_logits(
        self: Network,
        ids: Tensor,
        attention: Attention,
        changes: Changes = NO_CHANGES,
        ends: Tensor | None = None,
    ) -> Tensor:
        stream = self.embed(ids, attention.positions)
        stream = self.run(stream, 0, self.depth, attention, changes)
        last = stream[:, -1] if ends is None else stream[torch.arange(len(ids), device=ends.device), ends]
        return self.unembed(last)

    def rows_to_run(self, rows: int, most: int, steps: int) -> int:
        return rows if self.layout is None else self.layout.rows_to_run(rows, most, steps)

    def slots_for(self, rows: int) -> int:
        return rows if self.layout is None else self.layout.slots_for(rows)
