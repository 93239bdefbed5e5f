"""Prefill: run prompts in every arm, in one pass, to get keys, values and next-token logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steer_cli.activations.arms import change_of
from steer_cli.activations.effect import ChangedRows, lost
from steer_cli.activations.receipts import ReceiptTaker
from steer_cli.decoding.request import ArmReceipts, Request, Started
from steer_cli.errors import NotFiniteError
from steer_cli.networks.attention import Causal
from steer_cli.networks.network import Network


@torch.inference_mode()
def prefill(network: Network, requests: Sequence[Request]) -> list[Started]:
    """Run the prompts of all requests, one row per arm.

    Raises:
        VectorError: logits are no longer finite, or additions at a layer have not changed the stream.
    """
    prompts = [request.prompt for request in requests for _ in request.arms]
    arms = [arm for request in requests for arm in request.arms]
    takers = [ReceiptTaker(arm) if request.receipts else None for request in requests for arm in request.arms]
    longest = max(map(len, prompts))
    changed = ChangedRows([len(prompt) for prompt in prompts])

    def changing(layer: int) -> Callable[[Tensor], Tensor]:
        def change(stream: Tensor) -> Tensor:
            after = change_of(arms, layer, longest, network.width, stream.device).of(stream)
            changed.see(layer, stream, after)
            for row, taker in enumerate(takers):
                if taker is not None:
                    taker.see(layer, stream[row, : len(prompts[row])], after[row, : len(prompts[row])])
            return after

        return change

    # Padding to the right of a prompt cannot affect it, so prompts of any length share a pass.
    rows = [[*prompt, *[prompt[-1]] * (longest - len(prompt))] for prompt in prompts]
    attention = Causal(longest, network.device, keep=True)
    logits = network.next_logits(
        torch.tensor(rows, device=network.device),
        attention,
        {layer: changing(layer) for layer in sorted({layer for arm in arms for layer in arm.layers})},
        ends=torch.tensor([len(prompt) - 1 for prompt in prompts], device=network.device),
    ).float()
    check_finite(logits)
    for row, layer in changed.missing([arm.acting_on_prompt for arm in arms]):
        raise lost(arms[row].acting_on_prompt[layer], layer, changed.dtype)
    started, first = [], 0
    for request in requests:
        own = range(first, first + len(request.arms))
        first = own.stop
        started.append(
            Started(
                request,
                tuple(attention.prefix.row(row, len(request.prompt)) for row in own),
                logits[own.start : own.stop],
                tuple(_receipts(takers[row]) for row in own),
            )
        )
    return started


def _receipts(taker: ReceiptTaker | None) -> ArmReceipts:
    return ArmReceipts() if taker is None else ArmReceipts(taker.receipts, tuple(taker.sums))


def check_finite(logits: Tensor) -> None:
    """Raise NotFiniteError if logits are not finite, since no token could be drawn."""
    if not logits.isfinite().all():
        raise NotFiniteError("the logits are no longer finite; use a smaller coefficient or `dtype=float32`")
