"""Record the residual stream. Layer L is the stream that enters block L."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from steer_cli.networks.attention import Causal
from steer_cli.networks.network import Network


@torch.inference_mode()
def record(network: Network, ids: Tensor, layers: Iterable[int]) -> dict[int, Tensor]:
    """Record the stream that enters the given blocks; the pass stops at the deepest.

    Args:
        ids: [rows, positions]; no position is masked.

    Returns:
        layer -> [rows, positions, width], in the network's dtype.
    """
    ids = ids.to(network.device)
    *passed, deepest = sorted(set(layers))
    attention = Causal(ids.shape[1], network.device)
    streams: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Tensor], Tensor]:
        return lambda stream: streams.setdefault(layer, stream)

    start = network.embed(ids, attention.positions)
    changes = {layer: keep(layer) for layer in passed}
    streams[deepest] = network.run(start, 0, deepest, attention, changes)
    return streams
