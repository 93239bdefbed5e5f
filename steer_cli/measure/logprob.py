"""How odd is a text to the model itself?

This module does not know steering: nothing is added to the stream here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steer_cli.decoding.kv_cache import Prefix
from steer_cli.errors import ModelError
from steer_cli.models.load import Model
from steer_cli.recipe.yaml_source import show

# Vocabulary-sized rows held at once: 256 MB of float32.
HELD_VALUES = 64_000_000


@torch.inference_mode()
def mean_logprobs(
    model: Model, prefix: Prefix, logits: Tensor, rows: Sequence[tuple[int, ...]]
) -> list[float]:
    """Mean log probability of each row's tokens after an unsteered prompt, in nats a token.

    Args:
        prefix: keys and values of the prompt, one row.
        logits: [vocabulary] after the prompt.
        rows: token ids of each completion.

    Raises:
        ModelError: log probabilities are not finite, as half precision may have it.
    """
    distinct = sorted(set(rows), key=len)
    means: dict[tuple[int, ...], float] = {}
    while distinct:
        count = max(1, HELD_VALUES // (model.vocabulary * len(distinct[-1])))
        chunk, distinct = distinct[-count:], distinct[:-count]
        means |= dict(zip(chunk, _means(model, prefix, logits, chunk), strict=True))
    if not all(map(math.isfinite, means.values())):
        raise ModelError(
            f"model {show(model.name)}: log probabilities of its texts are not finite; use --dtype float32"
        )
    return [means[row] for row in rows]


def _means(model: Model, prefix: Prefix, logits: Tensor, rows: list[tuple[int, ...]]) -> list[float]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + (row[-1],) * (longest - len(row)) for row in rows], device=model.device)
    logprobs = logits.float().log_softmax(-1)[ids[:, :1]]
    if longest > 1:
        cache = model.growing_cache(
            *(
                [tensor.expand(len(rows), -1, -1, -1) for tensor in side]
                for side in (prefix.keys, prefix.values)
            )
        )
        after = model.network(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True).logits
        rest = after.gather(2, ids[:, 1:, None]).squeeze(2).float() - after.float().logsumexp(-1)
        logprobs = torch.cat([logprobs, rest], 1)
    return [float(values[: len(row)].double().mean()) for values, row in zip(logprobs, rows, strict=True)]
