"""Controls: replace the vector, to see whether it does more than noise or an extra token.

`random`: Gaussian noise with the vector's norm at every position. `shuffled`: the vector's values in a
different order along the width, so that large values stay as large. `embedding`: the pair read at layer 0,
rescaled to its norm at the layer. `prompt`: no vector, but the plus text as tokens in front of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from steer_cli.errors import PlanError
from steer_cli.planning.placement import Alignment, check_length
from steer_cli.planning.plan import Plan
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.schema import Random, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from steer_cli.networks.network import Network


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


def fronted(plan: Plan, control: str | None) -> tuple[tuple[int, ...], ...]:
    """For the control `prompt`, each prompt's ids with the plus text in front; empty for other controls.

    Raises:
        PlanError: the recipe has several plus texts, or a prompt is too long with one in front.
    """
    if control != "prompt":
        return ()
    facts, new_tokens = plan.facts, plan.recipe.sampling.max_new_tokens
    rows = tuple(with_plus_text(plan.recipe, prompt.ids, facts.tokenizer) for prompt in plan.prompts)
    for prompt, row in zip(plan.prompts, rows, strict=True):
        check_length(row, prompt.text, new_tokens, facts.context, facts.limited)
    return rows


def with_plus_text(recipe: Recipe, prompt: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    """A prompt's ids with the plus text's tokens after BOS.

    Raises:
        PlanError: the recipe has several plus texts.
    """
    texts = {pair.plus for addition in recipe.additions for pair in addition.texts}
    if len(texts) > 1:
        raise PlanError(
            f"control prompt: {recipe.name} has {len(texts)} plus texts, but only one can go in front; "
            "use another control",
            parameter="control",
        )
    front = 0 if tokenizer.bos is None else 1
    return (*tokenizer.prompt(texts.pop()), *prompt[front:])
