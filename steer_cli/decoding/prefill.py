"""Prompts -> keys, values and next-token logits, for every arm, in one pass.

An arm is a way to run a prompt: unsteered, or with a plan. This module does not know recipes, texts or
where an arm's tensors come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from steer_cli.decoding.kv_cache import Prefix
from steer_cli.errors import ModelError, VectorError
from steer_cli.models.load import Model
from steer_cli.planning.placement import Placement
from steer_cli.recipe.yaml_source import show
from steer_cli.steering.effect import Changes, lost
from steer_cli.steering.residual import Seen, inject


@dataclass(frozen=True)
class Arm:
    """What is added to the stream in one arm; the unsteered arm adds nothing.

    `prompt`: layer -> [positions of the prompt, width]. `decode`: layer -> [width], for every new token.
    `acting`: layer -> what has to change the stream of the prompt there; `acting_later`: layer -> what acts
    on no position of the prompt, and has to change the stream of the first new token.
    """

    prompt: Mapping[int, Tensor] = field(default_factory=dict)
    decode: Mapping[int, Tensor] = field(default_factory=dict)
    acting: Mapping[int, Sequence[Placement]] = field(default_factory=dict)
    acting_later: Mapping[int, Sequence[Placement]] = field(default_factory=dict)


UNSTEERED = Arm()


@dataclass(frozen=True)
class Job:
    """One prompt (token ids with BOS) and its arms.

    `seen` is shown the streams, [arms, positions, width], wherever something is added to any of the pass.
    """

    prompt: tuple[int, ...]
    arms: tuple[Arm, ...]
    seen: Seen | None = None


@dataclass(frozen=True)
class Started:
    """A job after its prompt: for each arm the keys and values, and logits [arms, vocabulary]."""

    job: Job
    prefixes: tuple[Prefix, ...]
    logits: Tensor


@torch.inference_mode()
def prefill(model: Model, jobs: Sequence[Job]) -> list[Started]:
    """Run the prompts of all jobs, a row for each arm.

    Raises:
        VectorError: some logits are not finite any more, or what acts somewhere has changed nothing there.
    """
    rows = [(job, arm) for job in jobs for arm in job.arms]
    longest = max(len(job.prompt) for job in jobs)
    # What stands to the right of a prompt cannot reach it, so prompts of any length share a pass.
    ids = [list(job.prompt) + [job.prompt[-1]] * (longest - len(job.prompt)) for job, _ in rows]
    deltas = _stacked([arm.prompt for _, arm in rows], longest, model)
    ends, place = torch.tensor([len(job.prompt) - 1 for job, _ in rows]).unique(return_inverse=True)
    cache = model.growing_cache()
    changes = Changes([len(job.prompt) for job, _ in rows])
    with inject(model, deltas, _shown_to(jobs, changes)):
        logits = model.network(
            input_ids=torch.tensor(ids, device=model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=ends.to(model.device),
        ).logits
    whole = _whole_past(model, cache, longest)
    logits = logits[torch.arange(len(rows)), place].float()
    if not logits.isfinite().all():
        raise VectorError("the logits are not finite any more; use a smaller coefficient or --dtype float32")
    for row, layer in changes.missing([arm.acting for _, arm in rows]):
        raise lost(rows[row][1].acting[layer], layer, changes.dtype)
    started, at = [], 0
    for job in jobs:
        prefixes = tuple(whole.row(at + arm, len(job.prompt)) for arm in range(len(job.arms)))
        started.append(Started(job, prefixes, logits[at : at + len(job.arms)]))
        at += len(job.arms)
    return started


def _whole_past(model: Model, cache: Any, positions: int) -> Prefix:
    """The keys and values that a pass has left, checked to be all of them."""
    layers = cache.layers
    if len(layers) != model.depth or any(layer.keys.shape[2] != positions for layer in layers):
        raise ModelError(f"model {show(model.name)}: it does not keep keys and values of every position")
    return Prefix(tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers))


def _shown_to(jobs: Sequence[Job], changes: Changes) -> Seen:
    def seen(layer: int, before: Tensor, after: Tensor) -> None:
        changes.see(layer, before, after)
        at = 0
        for job in jobs:
            if job.seen is not None:
                rows, positions = slice(at, at + len(job.arms)), len(job.prompt)
                job.seen(layer, before[rows, :positions], after[rows, :positions])
            at += len(job.arms)

    return seen


@torch.inference_mode()
def check_first_token(model: Model, started: Started, arm: int, token: Tensor) -> None:
    """Run a new token (one id) after a prompt on which some of an arm's additions had nothing to act on.

    A pass of its own, so that no step of decoding has to look; such prompts are rare.

    Raises:
        VectorError: one of those additions changes nothing here either.
    """
    acting = started.job.arms[arm].acting_later
    if not acting:
        return
    prefix, changes = started.prefixes[arm], Changes([1])
    cache = model.growing_cache(prefix.keys, prefix.values)
    with inject(model, started.job.arms[arm].decode, changes.see):
        model.network(input_ids=token[None, None], past_key_values=cache, use_cache=True)
    for _, layer in changes.missing([acting]):
        raise lost(acting[layer], layer, changes.dtype)


def _stacked(parts: Sequence[Mapping[int, Tensor]], positions: int, model: Model) -> dict[int, Tensor]:
    """layer -> [parts, positions, width], zeros where a part adds nothing or ends early."""
    layers = sorted({layer for part in parts for layer in part})
    together = {
        layer: torch.zeros(len(parts), positions, model.width, device=model.device) for layer in layers
    }
    for index, part in enumerate(parts):
        for layer, delta in part.items():
            together[layer][index, : len(delta)] = delta
    return together
