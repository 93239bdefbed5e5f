"""Steer a transformers model that the user holds, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steer_cli.planning.plan import align
from steer_cli.recipe.load import checked
from steer_cli.recipe.schema import Recipe
from steer_cli.run_plan import vectors_of

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def steering(model: nn.Module, recipe: Recipe, tokenizer: Any) -> Iterator[None]:
    """Within the `with`, steer a transformers model that the user has loaded, whatever runs it.

    Each row of a batch is a prompt, counted from its own first token, which is BOS unless the recipe says
    `bos: none` or the row is a chat of the tokenizer's own template. In `generate`, what it was called with
    is the prompt, also if the KV cache already holds its beginning, and the rest is new. In other calls of
    the model, tokens are the prompt's, but one token per row after cached ones is new.

    Relative coefficients are measured on each prompt, which costs a further pass over it, up to their layers.
    Without a KV cache outside of `generate`, every pass is a prompt.

    Several `with` may be nested; vectors are those of the unsteered model. Afterwards, even after an
    exception, the model is as it was.

    Args:
        model: a ...ForCausalLM of transformers.
        tokenizer: its fast tokenizer.

    Raises:
        SteerError: the recipe does not fit the model or, during a pass, a row; or, at the end of the `with`,
            an addition has reached no token.
    """
    from steer_cli.activations.attach import attached, unsteered
    from steer_cli.models.held import evaluating, held_model

    network, facts = held_model(model, tokenizer, checked(recipe).bos)
    with unsteered(), evaluating(model):
        found = vectors_of(network, align(recipe, facts))
    with attached(model, network, found, facts.tokenizer):
        yield
