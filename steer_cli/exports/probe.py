"""Compare a baked network with the steered one on a probe of any tokens, at all positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from steer_cli.errors import ModelError
from steer_cli.models.hardware import Hardware
from steer_cli.models.load import load
from steer_cli.models.located import Located
from steer_cli.networks.attention import Causal
from steer_cli.networks.network import Network

LENGTHS = (1, 13)  # of the probes, in tokens
# Share of the logits' spread: rounding of the computation, and of weights that the new type cannot hold. A
# constant in a wrong place is found by the first, since weights are only rounded after that.
EXACT = 1e-4
ROUNDED = {torch.bfloat16: 0.15, torch.float16: 0.05}


@torch.inference_mode()
def probe(network: Network, added: Mapping[int, Tensor]) -> list[Tensor]:
    """Logits of each probe, [positions, vocabulary], with constants added at some layers."""

    def adding(row: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda stream: stream + row.to(stream)

    changes = {layer: adding(row) for layer, row in added.items()}
    found = []
    for length in LENGTHS:
        attention = Causal(length, network.device)
        # Any tokens, mostly different ones.
        ids = (torch.arange(length, device=network.device)[None] * 7919 + 11) % network.embeddings
        stream = network.embed(ids, attention.positions)
        stream = network.run(stream, 0, network.depth, attention, changes)
        found.append(network.unembed(stream)[0].float().cpu())
    return found


def baked_probe(folder: Path, hardware: Hardware) -> list[Tensor]:
    """Logits of the network in a folder, loaded as any model is, without steering.

    Raises:
        ModelError: it cannot be loaded.
    """
    return probe(load(Located("the new folder", folder), hardware).network, {})


def difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference as a share of the spread of the wanted logits; infinite if it is no number."""
    shares = []
    for one, other in zip(found, wanted, strict=True):
        spread = (other.max() - other.min()).clamp(min=1e-9)
        shares.append(float((one - other).abs().max() / spread))
    return max(share if share == share else float("inf") for share in shares)


def check_difference(found: list[Tensor], wanted: list[Tensor], most: float) -> float:
    """The difference, which may be at most this.

    Raises:
        ModelError: it is larger.
    """
    share = difference(found, wanted)
    if share > most:
        raise ModelError(
            f"its logits differ from the steered ones by {share:.2g} of their spread, and at most {most:.2g} "
            "may be rounding; nothing was written"
        )
    return share
