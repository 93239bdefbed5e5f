"""Which networks can be run: all weights are there, and rows of any length can share a batch.

This module does not load anything.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from steer_cli.errors import ModelError
from steer_cli.recipe.quoting import show

# Local attention by the longest row, biases by distance, a state instead of keys and values, positions made
# from the padding, or a window in config.json that is not the one that the network uses.
NOT_BATCHED = {
    *("bloom", "gpt_neo", "openai-gpt", "rwkv", "llama4_text", "gemma3n_text"),
    *(
        "moshi",
        "nemotron_h",
        "minimax",
        "blt",
        "doge",
        "xlm",
        "xlnet",
        "reformer",
        "cpmant",
        "prophetnet",
        "big_bird",
    ),
}
# Buffers that old releases saved with the weights; networks make them anew.
SAVED_BUFFERS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|position_ids)$")
MOST_BUFFERED = 2**28  # numbers that a network may make of itself, such as angles of positions
WINDOW = ("sliding_window", "use_sliding_window", "layer_types")  # keys by which blocks are told apart


def check_size(outline: nn.Module | None, file_bytes: int, name: str) -> None:
    """Raises ModelError where the files cannot hold a network's weights; it is not made then."""
    if outline is None:
        return
    weights = sum(parameter.numel() for parameter in outline.parameters())
    buffers = sum(buffer.numel() for buffer in outline.buffers())
    if weights > file_bytes or buffers > max(file_bytes, MOST_BUFFERED):
        raise ModelError(
            f"model {show(name)}: config.json describes {weights} weights and {buffers} numbers beside them, "
            f"and the files of weights have {file_bytes} bytes; fetch the model again, or mend config.json"
        )


def check_weights(network: nn.Module, info: Mapping[str, Any], where: str) -> None:
    """Raises ModelError where the weights of a folder are not exactly those of the network.

    Args:
        info: what `from_pretrained` says of the loading; it fills what is missing with random numbers.
        where: the model, for errors.
    """
    tied = getattr(network, "all_tied_weights_keys", None) or {}
    check_names(
        missing=[name for name in info["missing_keys"] if name not in tied],
        misshapen=[str(key[0]) for key in info["mismatched_keys"]],
        unexpected=info["unexpected_keys"],
        where=where,
    )
    if info["error_msgs"]:
        raise ModelError(f"{where}: {' '.join(str(info['error_msgs'][0]).split())[:200]}")


def check_names(
    missing: Iterable[str], misshapen: Iterable[str], unexpected: Iterable[str], where: str
) -> None:
    """Raises ModelError where a folder's weights are not exactly those that a network asks for."""
    for names, fault in (
        (missing, "missing from the files"),
        (misshapen, "of another shape than config.json says"),
        (
            (name for name in unexpected if not SAVED_BUFFERS.search(name)),
            "in the files, and config.json describes a network without them",
        ),
    ):
        if ordered := sorted(names):
            count = "1 weight is" if len(ordered) == 1 else f"{len(ordered)} weights are"
            shown = ", ".join(map(show, ordered[:3])) + (", ..." if ordered[3:] else "")
            raise ModelError(f"{where}: {count} {fault}: {shown}; fetch the model again, or mend config.json")


def drop_strays(config: Any) -> None:
    """Take out of a configuration those keys about windows that its class does not know.

    Networks read only what their class declares, so that such a key says nothing of what they do.
    """
    declared = _fields(config)
    for key in WINDOW:
        if declared and key not in declared and key in vars(config):
            delattr(config, key)


def check_kind(network: Any, name: str) -> None:
    """Raises ModelError for models whose rows cannot share a batch at different lengths.

    They keep their past in something else than keys and values, or place it by more than positions and
    a mask: running them would give wrong texts, not errors.
    """
    config = network.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    stateful = getattr(network, "_is_stateful", False) or not hasattr(network, "get_input_embeddings")
    if (
        stateful
        or getattr(config, "alibi", False)
        or config.model_type in NOT_BATCHED
        or kinds - {"full_attention", "sliding_attention"}
        or getattr(config, "is_encoder_decoder", False)
        or ("sliding_attention" in kinds and not _masks_windows(network))
    ):
        raise ModelError(
            f"model {show(name)}: {config.model_type} keeps its past in a way that steer cannot batch; "
            "use a model with plain or sliding attention, such as Llama, Gemma, Qwen or GPT-2"
        )
    if _looks_ahead(network, config):
        raise ModelError(f"model {show(name)}: its attention is not causal; it completes no texts")
    lacking = [key for key in ("num_hidden_layers", "hidden_size") if not hasattr(config, key)]
    if lacking or _weight(network.get_output_embeddings()) is None:
        what = lacking[0] if lacking else "output embeddings"
        raise ModelError(f"model {show(name)}: {config.model_type} has no {what} that steer knows")


def find_blocks(network: Any, depth: int, name: str) -> nn.ModuleList:
    """The list of transformer blocks: the outermost list of `depth` modules, whatever its name is.

    Raises:
        ModelError: there is none.
    """
    # Only the text's part: an image encoder beside it may have a list of the same length.
    for _, module in network.get_decoder().named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ModelError(f"model {show(name)}: no list of {depth} blocks in {type(network).__name__}")


def _masks_windows(network: nn.Module) -> bool:
    return hasattr(sys.modules[type(network).__module__], "create_sliding_window_causal_mask")


def _looks_ahead(network: nn.Module, config: Any) -> bool:
    """Some networks complete texts only where config.json says so; else every token sees those after it."""
    module = sys.modules[type(network).__module__]
    encoder = hasattr(module, "create_bidirectional_mask") and "is_decoder" in _fields(config)
    return (
        getattr(config, "is_causal", True) is False
        or bool(getattr(config, "use_bidirectional_attention", False))
        or (encoder and not config.is_decoder)
    )


def _fields(config: Any) -> Iterable[str]:
    return getattr(type(config), "__dataclass_fields__", ())


def _weight(module: nn.Module | None) -> Any:
    return getattr(module, "weight", None)
