"""Controls: replace the vector, to see whether it does more than noise or an extra token.

`random`: Gaussian noise with the vector's norm at every position. `shuffled`: the vector's own values in
another order along the width, so that large values stay as large. `embedding`: the pair read at layer 0,
rescaled to the norm it has at the layer. `prompt`: no vector, but the plus text as tokens in front of the
prompt; several different ones stand there one after the other, as many as the model's context holds.
`prompt=TEXT`: that text instead, with a space after it unless it or the prompt has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from steer_cli.errors import PlanError
from steer_cli.planning.in_front import Front, fitting, gap, plus_texts
from steer_cli.planning.placement import Alignment, check_length
from steer_cli.planning.plan import Plan
from steer_cli.recipe.quoting import show
from steer_cli.recipe.schema import Random

if TYPE_CHECKING:
    from torch import Tensor

    from steer_cli.networks.network import Network

KINDS = ("random", "shuffled", "embedding", "prompt")


def control_vectors(
    network: Network, alignments: Sequence[Alignment], vectors: Sequence[Tensor], control: str, seed: int
) -> list[Tensor]:
    """Replacements for the vectors, [positions, width] each, with the same norm at every position.

    Raises:
        VectorError: the texts of the pair are equal at layer 0, where `embedding` reads them.
    """
    import torch

    from steer_cli.activations.vectors import compute, rescaled

    if control == "shuffled":
        generator = torch.Generator().manual_seed(seed)
        return [vector[:, torch.randperm(vector.shape[1], generator=generator)] for vector in vectors]
    values = {"random": Random(seed=seed)} if control == "random" else {"source_layer": 0, "match_norm": True}
    changed = [
        replace(
            alignment,
            addition=alignment.addition.model_copy(update=values),
            source_layer=0 if control == "embedding" else alignment.source_layer,
        )
        for alignment in alignments
    ]
    # After `dims`, which does not reduce a control's norm by as much as the vector's.
    return [
        rescaled(made, vector.norm(dim=-1, keepdim=True))
        for made, vector in zip(compute(network, changed), vectors, strict=True)
    ]


@dataclass(frozen=True)
class Control:
    """A third arm. `name` is what its column is called; `rows` and `text` are those of `prompt`."""

    kind: str
    name: str
    text: str | None = None  # in front of each prompt
    rows: tuple[tuple[int, ...], ...] = ()  # each prompt's ids with the text in front


def planned(plan: Plan, control: str | None) -> Control | None:
    """What a control means for a plan.

    Args:
        control: one of KINDS, or `prompt=TEXT`.

    Raises:
        PlanError: it is none of them, or a prompt is too long with the text in front.
    """
    if control is None:
        return None
    kind, equals, given = control.partition("=")
    if kind not in KINDS or (equals and (kind != "prompt" or not given)):
        raise PlanError(
            f"control {show(control)}: write {', '.join(KINDS)}, or prompt=TEXT for a text in front",
            parameter="control",
        )
    stored = [alignment.label for alignment in plan.alignments if alignment.stored]
    if kind == "embedding" and stored:
        raise PlanError(
            f"control embedding: needs texts, and the stored vector {stored[0]} has none; use random or "
            "shuffled",
            parameter="control",
        )
    if kind != "prompt":
        return Control(kind, kind)
    facts, new_tokens = plan.facts, plan.recipe.sampling.max_new_tokens
    tokenizer, start = facts.tokenizer, 0 if facts.tokenizer.bos is None else 1
    if given:
        front = Front((given,), 1)
        rows = tuple(
            tokenizer.prompt(f"{given}{gap(given, prompt.text)}{prompt.text}") for prompt in plan.prompts
        )
    else:
        longest = max(len(prompt.ids) for prompt in plan.prompts)
        room = None if facts.context is None else facts.context - longest - new_tokens
        front = fitting(plus_texts(plan.alignments, "control"), room, tokenizer)
        rows = tuple((*tokenizer.prompt(front.text), *prompt.ids[start:]) for prompt in plan.prompts)
    for prompt, row in zip(plan.prompts, rows, strict=True):
        check_length(row, prompt.text, new_tokens, facts.context, facts.limited)
    return Control(kind, f"{kind} {front.name}", front.text, rows)
