"""The logits of the token after a position of a prompt, under many arms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steer_cli.activations.arms import Arm
from steer_cli.activations.effect import ChangedRows, lost, out_of_reach
from steer_cli.activations.residual import record
from steer_cli.errors import VectorError
from steer_cli.measure.scoring import PASS_POSITIONS, changes_of
from steer_cli.networks.attention import Causal
from steer_cli.networks.network import Network
from steer_cli.planning.placement import Placement


@torch.inference_mode()
def next_logits(network: Network, prompt: Sequence[int], arms: Sequence[Arm], position: int) -> Tensor:
    """Logits of the token after a position of one prompt, for each arm.

    Returns:
        [arms, vocabulary], float32 on the CPU.

    Raises:
        VectorError: logits are no longer finite, or an arm's additions at a layer change nothing.
    """
    start = min((layer for arm in arms for layer in arm.layers), default=0)
    stream = record(network, torch.tensor([list(prompt)]), [start])[start]
    attention = Causal(len(prompt), network.device)
    size = max(1, PASS_POSITIONS // len(prompt))
    parts = []
    for first in range(0, len(arms), size):
        part = arms[first : first + size]
        changed = ChangedRows([position + 1] * len(part))
        rows = stream.expand(len(part), -1, -1)
        last = network.run(rows, start, network.depth, attention, changes_of(part, changed))
        for row, layer in changed.missing([arm.acting for arm in part]):
            raise _without_effect(part[row].acting[layer], layer, position, changed)
        parts.append(network.unembed(last[:, position]).float().cpu())
    logits = torch.cat(parts)
    if not logits.isfinite().all():
        raise VectorError("the steered logits are not finite; use a smaller coefficient or `dtype=float32`")
    return logits


def _without_effect(
    placements: Sequence[Placement], layer: int, last: int, changed: ChangedRows
) -> VectorError:
    within = [placement for placement in placements if placement.start < min(placement.end, last + 1)]
    return lost(within, layer, changed.dtype) if within else out_of_reach(placements, last)
