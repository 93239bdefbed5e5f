"""Choose the plain network for a config.json, or say why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from steer_cli.errors import ModelError
from steer_cli.networks import gemma3, gpt2, llama
from steer_cli.networks.checkpoint import Checkpoint, Weights
from steer_cli.networks.config import Config
from steer_cli.networks.network import Plain


class Family(NamedTuple):
    """Models whose networks are in one module."""

    network: Callable[[Config, Weights], Plain]
    fault: Callable[[Mapping[str, Any]], str | None]


FAMILIES = {
    **dict.fromkeys(llama.KEYS, Family(llama.Llama, llama.fault)),
    "gpt2": Family(gpt2.GPT2, gpt2.fault),
    "gemma3_text": Family(gemma3.Gemma3, gemma3.fault),
}


def why_not(values: Mapping[str, Any]) -> str | None:
    """Why transformers runs a model; None if a plain network does."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        return f"there is no plain network of the kind {kind!r}"
    fault = FAMILIES[kind].fault(values)
    return None if fault is None else f"the plain network of {kind} does not handle it: {fault}"


def build(
    values: Mapping[str, Any],
    files: Sequence[Path],
    dtype: torch.dtype,
    device: torch.device,
    where: str = "the model",
) -> Plain:
    """The network of a config for which `why_not` is None.

    Args:
        files: the model's safetensors files.
        where: what errors call the model.

    Raises:
        ModelError: the weights do not fit the config.
    """
    network = FAMILIES[values["model_type"]].network
    outline = Weights(dtype, torch.device("cpu"))
    try:
        network(Config(values), outline)
    except (ModelError, RuntimeError) as error:  # RuntimeError: out of memory
        raise ModelError(f"{where}: {error}") from None
    return network(Config(values), Checkpoint(files, outline, dtype, device, where))
