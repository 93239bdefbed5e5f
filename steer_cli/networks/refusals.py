"""Refuse networks with missing weights, or whose rows cannot share a batch at different lengths."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from steer_cli.errors import ModelError
from steer_cli.recipe.quoting import show

# Local attention that depends on the longest row, biases by distance, a state instead of keys and values,
# positions derived from the padding, or a window that differs from the one in config.json.
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
# Buffers that old releases saved with the weights; networks compute them again.
SAVED_BUFFERS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|position_ids)$")
MOST_BUFFERED = 2**28  # numbers that a network may compute itself, such as rotary angles
WINDOW = ("sliding_window", "use_sliding_window", "layer_types")  # keys that distinguish kinds of blocks


def check_size(outline: nn.Module | None, file_bytes: int, name: str) -> None:
    """Raise ModelError, before the network is made, if the files are too small for its weights."""
    if outline is None:
        return
    weights = sum(parameter.numel() for parameter in outline.parameters())
    buffers = sum(buffer.numel() for buffer in outline.buffers())
    if weights > file_bytes or buffers > max(file_bytes, MOST_BUFFERED):
        raise ModelError(
            f"model {show(name)}: config.json describes {weights} weights and {buffers} other numbers, but "
            f"the weight files have {file_bytes} bytes; fetch the model again, or correct config.json"
        )


def check_weights(network: nn.Module, info: Mapping[str, Any], where: str) -> None:
    """Raise ModelError unless a folder's weights are exactly those of the network.

    Args:
        info: the loading report of `from_pretrained`, which fills missing weights with random numbers.
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
    """Raise ModelError unless a folder's weights are exactly those that a network asks for."""
    for names, fault in (
        (missing, "missing from the files"),
        (misshapen, "of a different shape from config.json"),
        (
            (name for name in unexpected if not SAVED_BUFFERS.search(name)),
            "in the files but not in the network that config.json describes",
        ),
    ):
        if ordered := sorted(names):
            count = "1 weight is" if len(ordered) == 1 else f"{len(ordered)} weights are"
            shown = ", ".join(map(show, ordered[:3])) + (", ..." if ordered[3:] else "")
            raise ModelError(
                f"{where}: {count} {fault}: {shown}; fetch the model again, or correct config.json"
            )


def drop_strays(config: Any) -> None:
    """Remove keys about windows that the configuration's class does not declare.

    Networks only read what their class declares, so such keys say nothing about what they compute.
    """
    declared = _fields(config)
    for key in WINDOW:
        if declared and key not in declared and key in vars(config):
            delattr(config, key)


def check_kind(network: Any, name: str) -> None:
    """Raise ModelError for models whose rows cannot share a batch at different lengths.

    Such models keep their past in something other than keys and values, or locate it by more than positions
    and a mask; running them would give wrong texts, not errors.
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
        raise ModelError(f"model {show(name)}: its attention is not causal, so it cannot complete texts")
    lacking = [key for key in ("num_hidden_layers", "hidden_size") if not hasattr(config, key)]
    if lacking or _weight(network.get_output_embeddings()) is None:
        what = lacking[0] if lacking else "output embeddings"
        raise ModelError(f"model {show(name)}: {config.model_type} has no {what} that steer knows")


def find_blocks(network: Any, depth: int, name: str) -> nn.ModuleList:
    """The list of transformer blocks: the outermost list of `depth` modules, whatever its name.

    Raises:
        ModelError: there is no such list.
    """
    # Only the text model: an image encoder next to it may have a list of the same length.
    for _, module in network.get_decoder().named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ModelError(f"model {show(name)}: no list of {depth} blocks in {type(network).__name__}")


def _masks_windows(network: nn.Module) -> bool:
    return hasattr(sys.modules[type(network).__module__], "create_sliding_window_causal_mask")


def _looks_ahead(network: nn.Module, config: Any) -> bool:
    """Whether tokens see later ones, as in networks that are causal only if config.json says so."""
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
