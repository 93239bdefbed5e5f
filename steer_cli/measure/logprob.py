"""How likely is a text under the unsteered model? Its mean log probability."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steer_cli.errors import ModelError
from steer_cli.networks.attention import AfterPrefix, Prefix
from steer_cli.networks.network import Network

# Positions per pass: more would not keep the cores busier.
PASS_POSITIONS = 640
# Logits held at once: 64 MB of float32.
HELD_LOGITS = 16_000_000


@torch.inference_mode()
def mean_logprobs(
    network: Network, prefix: Prefix, logits: Tensor, rows: Sequence[tuple[int, ...]]
) -> list[float]:
    """Mean log probability of each row's tokens after an unsteered prompt, in nats per token.

    Args:
        prefix: keys and values of the prompt, one row.
        logits: [vocabulary] after the prompt.
        rows: token ids of each completion.

    Raises:
        ModelError: log probabilities are not finite, which may happen in half precision.
    """
    distinct = sorted(set(rows), key=len)
    means: dict[tuple[int, ...], float] = {}
    while distinct:
        count = max(1, PASS_POSITIONS // len(distinct[-1]))
        chunk, distinct = distinct[-count:], distinct[:-count]
        means |= dict(zip(chunk, _means(network, prefix, logits, chunk), strict=True))
    if not all(map(math.isfinite, means.values())):
        raise ModelError("log probabilities of its texts are not finite; use `dtype=float32`")
    return [means[row] for row in rows]


def _means(network: Network, prefix: Prefix, logits: Tensor, rows: list[tuple[int, ...]]) -> list[float]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + (row[-1],) * (longest - len(row)) for row in rows], device=network.device)
    logprobs = logits.float().log_softmax(-1)[ids[:, :1]]
    if longest > 1:
        attention = AfterPrefix(prefix, len(rows), longest - 1)
        stream = network.embed(ids[:, :-1], attention.positions)
        last = network.run(stream, 0, network.depth, attention).flatten(0, 1)
        rest = _chosen(network, last, ids[:, 1:].flatten()).view(len(rows), -1)
        logprobs = torch.cat([logprobs, rest], 1)
    return [float(values[: len(row)].double().mean()) for values, row in zip(logprobs, rows, strict=True)]


def _chosen(network: Network, stream: Tensor, wanted: Tensor) -> Tensor:
    """Log probability of each position's wanted token, [positions], float32."""
    parts = max(1, -(-len(stream) * network.vocabulary // HELD_LOGITS))
    values = []
    for rows, ids in zip(stream.tensor_split(parts), wanted.tensor_split(parts), strict=True):
        logits = network.unembed(rows).float()
        values.append(logits.gather(1, ids[:, None]).squeeze(1) - logits.logsumexp(-1))
    return torch.cat(values)
