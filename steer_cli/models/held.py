"""Wrap a transformers model and tokenizer that the user has loaded, for the rest of steer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from steer_cli.errors import ModelError, TokenError
from steer_cli.models.pretrained import new_cache
from steer_cli.networks.adapter import Adapter
from steer_cli.networks.refusals import check_kind, find_blocks
from steer_cli.planning.chat import made_template
from steer_cli.planning.plan import ModelFacts
from steer_cli.planning.tokens import wrap_tokenizer


def held_model(model: Any, tokenizer: Any, bos: str = "auto") -> tuple[Adapter, ModelFacts]:
    """The model's network, and what planning needs to know about it.

    Args:
        model: a ...ForCausalLM of transformers.
        tokenizer: its fast tokenizer.
        bos: as in a recipe.

    Raises:
        ModelError: this kind of model cannot be steered.
        TokenError: the tokenizer is not a fast one, or has no such BOS.
    """
    _check_class(model)
    config = model.config.get_text_config()
    name = str(getattr(model.config, "name_or_path", "") or config.model_type)
    check_kind(model, name)
    network = Adapter(model, find_blocks(model, config.num_hidden_layers, name), new_cache)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TokenError(
            f"{name}: steering needs the model's fast tokenizer, and this is a {type(tokenizer).__name__}; "
            "use AutoTokenizer.from_pretrained(...), or of a processor its `tokenizer`"
        )
    eos = tokenizer.eos_token_id
    first = None if bos == "none" else _bos(tokenizer, bos)
    if first is None and bos != "none":
        raise TokenError(f"{name}: bos: the tokenizer has no such token; write `bos: none` or a token of it")
    template = partial(made_template, tokenizer.chat_template, name, tokenizer.special_tokens_map)
    wrapped = wrap_tokenizer(backend, name, first, () if eos is None else (eos,), template)
    context = getattr(config, "max_position_embeddings", None)
    return network, ModelFacts(name, wrapped, network.depth, context, name)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the `with`, the model is in evaluation mode, without dropout."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check_class(model: Any) -> None:
    """Raise ModelError for what is no model of transformers, or wraps one."""
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise ModelError("steering: the model is compiled, and would not run hooks; pass it uncompiled")
    if hasattr(model, "get_base_model"):
        raise ModelError(
            f"steering: {type(model).__name__} wraps a model in an adapter; pass its `get_base_model()`, and "
            "generate with either"
        )
    if not isinstance(model, nn.Module) or not hasattr(getattr(model, "config", None), "get_text_config"):
        raise ModelError(
            f"steering: a {type(model).__name__} is no model of transformers; pass what "
            "AutoModelForCausalLM.from_pretrained(...) returns"
        )
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(
            f"steering: {type(model).__name__} has an encoder and a decoder; pass a causal language model, "
            "such as Llama, Gemma, Qwen or GPT-2"
        )


def _bos(tokenizer: Any, bos: str) -> int | None:
    if bos != "auto":
        return tokenizer.backend_tokenizer.token_to_id(bos)
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
