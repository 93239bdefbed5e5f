"""Record the residual stream. Layer L is the stream that enters block L."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from steer_cli.networks.attention import Causal
from steer_cli.networks.network import Network


def record(network: Network, ids: Tensor, layers: Iterable[int]) -> dict[int, Tensor]:
    """Record the stream that enters the given blocks; the pass stops at the deepest.

    Args:
        ids: [rows, positions]; no position is masked.

    Returns:
        layer -> [rows, positions, width], in the network's dtype.
    """
    streams: dict[int, Tensor] = {}
    visit(network, ids, layers, streams.setdefault)
    return streams


@torch.inference_mode()
def visit(network: Network, ids: Tensor, layers: Iterable[int], see: Callable[[int, Tensor], object]) -> None:
    """Show the stream that enters the given blocks, layer by layer, without keeping it.

    Args:
        ids: [rows, positions]; no position is masked.
        see: called with a layer and its stream, [rows, positions, width], in the network's dtype.
    """
    ids = ids.to(network.device)
    start = network.embed(ids, Causal(ids.shape[1], network.device).positions)
    visit_from(network, start, 0, layers, see)


@torch.inference_mode()
def visit_from(
    network: Network, stream: Tensor, start: int, layers: Iterable[int], see: Callable[[int, Tensor], object]
) -> None:
    """The same from the stream that enters block `start`, which is no deeper than the layers."""
    *passed, deepest = sorted(set(layers))
    attention = Causal(stream.shape[1], network.device)

    def seeing(layer: int) -> Callable[[Tensor], Tensor]:
        def unchanged(stream: Tensor) -> Tensor:
            see(layer, stream)
            return stream

        return unchanged

    see(deepest, network.run(stream, start, deepest, attention, {layer: seeing(layer) for layer in passed}))
