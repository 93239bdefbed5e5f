"""Prefill, then decode: all samples of all arms of a prompt in one batch.

An arm is a way to run the prompt: unsteered, or with a plan. This module does not know recipes, texts or
where an arm's tensors come from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from steer_cli.errors import VectorError
from steer_cli.model import Model
from steer_cli.recipe import Sampling
from steer_cli.residual import inject
from steer_cli.sampling import draw, token_counts, uniforms

# Vocabulary-sized rows held at once while completions are scored: 256 MB of float32.
SCORED_VALUES = 64_000_000


@dataclass(frozen=True)
class Arm:
    """What is added to the stream in one arm; the unsteered arm adds nothing.

    `prompt`: layer -> [positions of the prompt, width]. `decode`: layer -> [width], for every new token.
    """

    prompt: Mapping[int, Tensor] = field(default_factory=dict)
    decode: Mapping[int, Tensor] = field(default_factory=dict)


UNSTEERED = Arm()


@dataclass(frozen=True)
class Row:
    """One completion: token ids with the EOS that ended it, if one did."""

    ids: tuple[int, ...]
    finish: str  # eos or length


@dataclass(frozen=True)
class Prefill:
    """The prompt's keys and values and next-token logits, one row an arm: logits [arms, vocabulary]."""

    cache: DynamicCache
    logits: Tensor


@torch.inference_mode()
def prefill(
    model: Model,
    prompt: Sequence[int],
    arms: Sequence[Arm],
    before: Callable[[int, Tensor], None] | None = None,
) -> Prefill:
    """Run the prompt once, a row for each arm.

    Args:
        before: shown (layer, stream [arms, positions, width]) where something is added, before it is.

    Raises:
        VectorError: the logits are not finite any more.
    """
    ids = torch.tensor([list(prompt)] * len(arms), device=model.device)
    deltas = _stacked([arm.prompt for arm in arms], (len(prompt), model.width), model)
    cache = DynamicCache(config=model.network.config)
    with inject(model, deltas, before):
        logits = model.network(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[
            :, -1
        ]
    if not logits.isfinite().all():
        raise VectorError("the steered logits are not finite; use a smaller coefficient or --dtype float32")
    return Prefill(cache, logits)


def _stacked(
    parts: Sequence[Mapping[int, Tensor]], shape: tuple[int, ...], model: Model
) -> dict[int, Tensor]:
    """layer -> [arms, *shape], zeros for the arms that add nothing there."""
    layers = sorted({layer for part in parts for layer in part})
    nothing = torch.zeros(shape, device=model.device)
    return {layer: torch.stack([part.get(layer, nothing) for part in parts]) for layer in layers}


@torch.inference_mode()
def decode(
    model: Model,
    prompt: Sequence[int],
    arms: Sequence[Arm],
    start: Prefill,
    samples: range,
    sampling: Sampling,
    eos: Sequence[int],
    step: Callable[[int], None] = lambda _: None,
) -> list[list[Row]]:
    """Sample completions of every arm from one prefill.

    Sample i of each arm draws with the same uniform numbers, made from (seed, i) alone.

    Args:
        samples: which samples, so that many can be decoded in parts.
        step: told the number of each step when it is done.

    Returns:
        For each arm, one row a sample.
    """
    rows = len(arms) * len(samples)
    cache = copy.deepcopy(start.cache)
    cache.batch_repeat_interleave(len(samples))
    logits = start.logits.repeat_interleave(len(samples), 0)
    uniform = uniforms(sampling.seed, samples, sampling.max_new_tokens).repeat(len(arms), 1).to(model.device)
    counts = None
    if sampling.frequency_penalty != 0:
        ids = torch.tensor([list(prompt)] * rows, device=model.device)
        counts = token_counts(ids, logits.shape[1])
    deltas = _stacked([arm.decode for arm in arms], (1, model.width), model)
    deltas = {layer: delta.repeat_interleave(len(samples), 0) for layer, delta in deltas.items()}
    ends = torch.tensor(list(eos), device=model.device)
    drawn: list[Tensor] = []
    running = torch.ones(rows, dtype=torch.bool, device=model.device)
    with ExitStack() as hooks:
        if deltas:
            hooks.enter_context(inject(model, deltas))
        for number in range(sampling.max_new_tokens):
            token = draw(logits, counts, sampling, uniform[:, number])
            drawn.append(token)
            step(number)
            running &= ~torch.isin(token, ends)
            if number + 1 == sampling.max_new_tokens or not running.any():
                break
            if counts is not None:
                counts.scatter_add_(1, token[:, None], torch.ones_like(token, dtype=counts.dtype)[:, None])
            logits = model.network(input_ids=token[:, None], past_key_values=cache, use_cache=True).logits[
                :, -1
            ]
    finished = [_row(ids, eos) for ids in torch.stack(drawn, 1).tolist()]
    return [finished[arm * len(samples) : (arm + 1) * len(samples)] for arm in range(len(arms))]


def _row(ids: list[int], eos: Sequence[int]) -> Row:
    end = next((index for index, id in enumerate(ids) if id in eos), None)
    return Row(tuple(ids), "length") if end is None else Row(tuple(ids[: end + 1]), "eos")


@torch.inference_mode()
def mean_logprobs(model: Model, start: Prefill, arm: int, rows: Sequence[Row]) -> list[float]:
    """Mean log probability of each row's tokens, by the plain model after the prompt of one prefilled arm.

    Nothing is injected here, so the figure says how odd a text is to the model itself.
    """
    distinct = sorted({row.ids for row in rows}, key=len)
    size = max(1, SCORED_VALUES // (model.vocabulary * len(distinct[-1])))
    means: dict[tuple[int, ...], float] = {}
    for chunk in _chunks(distinct, size):
        means |= dict(zip(chunk, _means(model, start, arm, chunk), strict=True))
    return [means[row.ids] for row in rows]


def _chunks(items: list, size: int) -> Iterator[list]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _means(model: Model, start: Prefill, arm: int, rows: list[tuple[int, ...]]) -> list[float]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + (row[-1],) * (longest - len(row)) for row in rows], device=model.device)
    first = start.logits[arm].log_softmax(-1)[ids[:, :1]]
    if longest > 1:
        cache = copy.deepcopy(start.cache)
        cache.batch_select_indices(torch.tensor([arm] * len(rows), device=model.device))
        logits = model.network(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True).logits
        rest = logits.float().log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
        first = torch.cat([first.float(), rest], 1)
    return [float(values[: len(row)].double().mean()) for values, row in zip(first, rows, strict=True)]
