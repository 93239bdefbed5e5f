"""The measurements written out plainly, to compare the tool against.

One sentence at a time, whole passes, float64, no batch, no prefix reuse. It shares no line with `steer_cli`.
"""

import contextlib
import functools
import math

import torch
from reference import front_ids, injected, load, placements, single, tokens


@functools.lru_cache(maxsize=2)
def opened(folder, bos="auto"):
    """The float64 model of a folder, its tokenizer, its special tokens' names, and what stands in front."""
    model, tokenizer, names = load(folder)
    return model.double(), tokenizer, names, front_ids(tokenizer, names, bos)


@torch.no_grad()
def logits(model, ids, placed=()):
    """Logits of one row, steered by placements: [positions, vocabulary], float64."""
    with injected(model, placed) if placed else contextlib.nullcontext():
        return model(torch.tensor([ids]), use_cache=False).logits[0].double()


def token_logprobs(model, ids, placed=()):
    """Log probability of each token but the first: the one at p + 1, predicted from position p."""
    table = logits(model, ids, placed).log_softmax(-1)
    return [float(table[p, ids[p + 1]]) for p in range(len(ids) - 1)]


def changes(folder, sentence, addition, method):
    """(unsteered, steered) log probabilities of a sentence's compared predictions, by token index."""
    model, tokenizer, names, front = opened(folder)
    n = max(len(tokens(tokenizer, front, text)) for text in (addition["plus"], addition.get("minus") or ""))
    pads = [single(tokenizer, " ")] * (n - len(front)) if method == "pad" else []
    ids = front + pads + tokens(tokenizer, [], sentence)
    placed = placements(model, tokenizer, names, front, ids, [addition])
    plain, steered = token_logprobs(model, ids), token_logprobs(model, ids, placed)
    # Position p predicts token p + 1; the vector lies on the first n positions.
    kept = [p for p in range(n, len(ids) - 1) if p + 1 >= len(front) + len(pads)]
    offset = len(front) + len(pads)
    return {p + 1 - offset: (plain[p], steered[p]) for p in kept}


def prompted(folder, sentence, addition):
    """Log probability of each token of a sentence behind the plus text, by token index."""
    model, tokenizer, _, front = opened(folder)
    before = tokens(tokenizer, front, addition["plus"])
    ids = before + tokens(tokenizer, [], sentence)
    values = token_logprobs(model, ids)
    return {p + 1 - len(before): values[p] for p in range(len(before) - 1, len(ids) - 1)}


def perplexity(pairs):
    """Figures of a corpus from the (unsteered, steered) pairs of each sentence."""
    flat = [pair for sentence in pairs for pair in sentence]
    count = len(flat)
    mean = sum(steered - plain for plain, steered in flat) / count
    return {
        "perplexity_unsteered": math.exp(-sum(plain for plain, _ in flat) / count),
        "perplexity_steered": math.exp(-sum(steered for _, steered in flat) / count),
        "ratio": math.exp(-mean),
        "tokens": count,
        "sentences": len(pairs),
    }
