"""Draw one token per row from logits.

logits / temperature, minus frequency_penalty times the count of each token in the row so far; then top-p,
keeping the token that crosses p; then top-k; then one draw with one uniform number. The kept tokens are in
the order of the vocabulary, so that arms whose probabilities differ only a little mostly draw the same token.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from steer_cli.recipe.sampling import Sampling

# Most nuclei are small: look at this many of the most probable tokens first, then more, then all.
LOOKS = (32, 256, 4096)
CHUNK = 128  # tokens per chunk; the largest score of each chunk is found first
TINY = 1e-30


def row_generator(seed: int, sample: int) -> torch.Generator:
    """The CPU generator of a sample; it does not depend on the number of samples."""
    digest = hashlib.sha256(f"{seed}:{sample}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def uniforms(seed: int, samples: range, steps: int) -> Tensor:
    """One number in [0, 1) for each sample and step: [samples, steps], float64 on the CPU."""
    rows = [
        torch.rand(steps, generator=row_generator(seed, sample), dtype=torch.float64) for sample in samples
    ]
    return torch.stack(rows) if rows else torch.empty(0, steps, dtype=torch.float64)


def exact(device: torch.device) -> torch.dtype:
    """The widest float of a device; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def token_counts(ids: Tensor, vocabulary: int) -> Tensor:
    """How often each token occurs in each row: [rows, positions] -> [rows, vocabulary], float32."""
    counts = torch.zeros(ids.shape[0], vocabulary, device=ids.device)
    return counts.scatter_add_(1, ids, torch.ones_like(ids, dtype=counts.dtype))


def draw_from_candidates(
    logits: Tensor, counts: Tensor | None, sampling: Sampling, uniform: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor]:
    """One token per row from the few most probable ones, without waiting for the device.

    Args:
        logits: [slots, vocabulary].
        counts: [slots, vocabulary], uses of each token so far; None where the penalty is 0.
        uniform: [rows], one number in [0, 1) per row; not looked at when temperature is 0.
        slots: the slot that each row draws from, [rows].

    Returns:
        Token ids, and whether the candidates were enough to know them, [rows] each. They are not where the
        largest of the logits is not finite. With temperature 0 the most probable token after the penalty.
    """
    return _look(_scores(logits, counts, sampling), sampling, uniform, LOOKS[0], slots)


def draw_from_more(
    token: Tensor,
    conclusive: Tensor,
    logits: Tensor,
    counts: Tensor | None,
    sampling: Sampling,
    uniform: Tensor,
    slots: Tensor,
) -> Tensor:
    """Redo the rows that `draw_from_candidates` could not determine, looking at more tokens."""
    token, rows = token.clone(), (~conclusive).nonzero().squeeze(1)
    for size in (*LOOKS[1:], logits.shape[1]):
        chosen = slots[rows]
        scores = _scores(logits[chosen], None if counts is None else counts[chosen], sampling)
        each_its_own = torch.arange(len(rows), device=rows.device)
        token[rows], conclusive = _look(scores, sampling, uniform[rows], size, each_its_own)
        rows = rows[~conclusive]
        if not len(rows):
            break
    return token


def _scores(logits: Tensor, counts: Tensor | None, sampling: Sampling) -> Tensor:
    """Logits divided by the temperature, minus the penalty."""
    scores = logits.float()
    if sampling.temperature not in (0.0, 1.0):
        # Subtracting the largest changes no probability, and a tiny temperature then only overflows to -inf.
        scores = (scores - scores.amax(-1, keepdim=True)) / max(sampling.temperature, TINY)
    if counts is not None:
        # Bounded, so that an unused token does not give infinity times 0.
        scores = scores - min(max(sampling.frequency_penalty, -1 / TINY), 1 / TINY) * counts
    return scores


def _look(
    scores: Tensor, sampling: Sampling, uniform: Tensor, size: int, slots: Tensor
) -> tuple[Tensor, Tensor]:
    """One token per row from the `size` largest scores of its slot, and whether those determine it."""
    if sampling.temperature == 0:
        return scores.argmax(-1)[slots], scores.amax(-1).isfinite()[slots]
    if sampling.top_p == 1 and sampling.top_k is None:
        probability = scores.to(exact(scores.device)).softmax(-1)
        return _invert(probability[slots], uniform), probability[:, 0].isfinite()[slots]
    token, probability, conclusive = _kept(scores, sampling.top_p, sampling.top_k, min(size, scores.shape[1]))
    return token[slots].gather(1, _invert(probability[slots], uniform)[:, None]).squeeze(1), conclusive[slots]


def _kept(scores: Tensor, top_p: float, top_k: int | None, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `size` most probable tokens, [rows, size], in vocabulary order; their probabilities, 0 for tokens
    not kept; and whether they include all kept tokens, [rows].
    """
    vocabulary = scores.shape[1]
    token = _largest(scores, size)
    # The sort is stable, so that of equal scores the lower id comes first.
    value, order = scores.gather(1, token).sort(dim=-1, descending=True, stable=True)
    probability = scores.softmax(-1).gather(1, token.gather(1, order)).to(exact(scores.device))
    before = probability.cumsum(-1) - probability
    # The token that crosses p is kept: a token is dropped if those before it already sum to p. p = 1
    # keeps all tokens, however the sum is rounded.
    inside = before < top_p if top_p < 1 else torch.ones_like(before, dtype=torch.bool)
    count = inside.sum(-1, keepdim=True).clamp(1, top_k or vocabulary)
    # Enough tokens were seen if the last one kept is larger than the last one seen; if equal, an unseen
    # token with the same score might have a lower id.
    conclusive = (value.gather(1, count - 1) > value[:, -1:]).squeeze(1) | (size == vocabulary)
    conclusive &= probability[:, 0].isfinite()
    rank = torch.arange(size, device=scores.device)
    kept = probability.masked_fill(rank >= count, 0.0)
    return token, torch.empty_like(kept).scatter_(1, order, kept), conclusive


def _largest(scores: Tensor, size: int) -> Tensor:
    """The tokens with the largest scores of each row, in the order of the vocabulary: [rows, size]."""
    rows, vocabulary = scores.shape
    if size == vocabulary:
        return torch.arange(vocabulary, device=scores.device).expand(rows, size)
    count = vocabulary // CHUNK
    if count < 4 * size:
        return scores.topk(size, sorted=False).indices.sort(-1).values
    # They are in the `size` chunks with the largest maxima, or after the last whole chunk.
    chunks = scores[:, : count * CHUNK].unflatten(1, (count, CHUNK))
    chosen = chunks.amax(-1).topk(size, sorted=False).indices  # [rows, size]
    near = chunks.gather(1, chosen[:, :, None].expand(rows, size, CHUNK)).flatten(1)
    near = torch.cat([near, scores[:, count * CHUNK :]], 1)
    chosen = torch.cat([chosen, torch.full_like(chosen[:, :1], count)], 1)
    best = near.topk(size, sorted=False).indices
    return (chosen.gather(1, best // CHUNK) * CHUNK + best % CHUNK).sort(-1).values


def _invert(probability: Tensor, uniform: Tensor) -> Tensor:
    """The first index whose cumulative share exceeds the uniform number: [rows, choices] -> [rows]."""
    cumulative = probability.cumsum(-1)
    total = cumulative[:, -1:]
    passed = cumulative <= uniform.to(cumulative)[:, None] * total
    # Rounding may put that index past the last token with nonzero probability.
    return (passed & (cumulative < total)).sum(-1)
