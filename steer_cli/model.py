"""Weights, device, dtype and the list of blocks: the only importer of transformers.

This module does not know what is done to the stream between the blocks.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steer_cli.document import show
from steer_cli.errors import ModelError

# Local attention by the longest row, biases by distance, a state instead of keys and values.
NOT_BATCHED = {"bloom", "gpt_neo", "openai-gpt", "rwkv", "llama4_text", "gemma3n_text"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Model:
    """A causal language model in evaluation mode."""

    name: str
    network: nn.Module  # a transformers ...ForCausalLM
    blocks: nn.ModuleList
    device: torch.device  # of the embeddings, where token ids go
    dtype: torch.dtype
    width: int
    vocabulary: int

    @property
    def on_one_gpu(self) -> bool:
        """Whether a CUDA graph can hold a whole pass."""
        places = {parameter.device for parameter in self.network.parameters()}
        return len(places) == 1 and self.device.type == "cuda"

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def growing_cache(self, keys: Sequence[Tensor] = (), values: Sequence[Tensor] = ()) -> Any:
        """A cache for transformers' models that keeps all positions, also of blocks with a sliding window.

        Args:
            keys, values: for each block [rows, heads, positions, width of a head], to begin with.
        """
        from transformers import DynamicCache

        # Made without the config, which would have it drop what has left a window.
        cache = DynamicCache()
        for block, (key, value) in enumerate(zip(keys, values, strict=True)):
            cache.update(key, value, block)
        return cache


def load(
    folder: Path, name: str, dtype: str = "auto", device: str = "auto", device_map: str | None = None
) -> Model:
    """Load a folder of safetensors.

    Args:
        dtype: float32, bfloat16 or float16; auto is float32 on a CPU and the checkpoint's elsewhere.
        device: cuda, cuda:1, mps or cpu; auto is the first of these that is there.
        device_map: `auto` spreads a model over all accelerators and the CPU's memory.

    Raises:
        ModelError: no such device, not a causal language model, or weights that do not fit it.
    """
    place = _device(device)
    wanted = _dtype(dtype, place, device_map)
    network = _from_pretrained(folder, name, wanted, device_map or place).eval().requires_grad_(False)
    _check_kind(network, name)
    config = network.config.get_text_config()
    return Model(
        name=name,
        network=network,
        blocks=find_blocks(network, config.num_hidden_layers, name),
        device=network.get_input_embeddings().weight.device,
        dtype=network.dtype,
        width=config.hidden_size,
        vocabulary=network.get_output_embeddings().weight.shape[0],
    )


def resolved(folder: Path, dtype: str, device: str, device_map: str | None = None) -> tuple[str, str]:
    """Names of the precision and of the kind of device that `load` comes to, without loading.

    Raises:
        ModelError: no such device.
    """
    place = _device("auto" if device_map else device)
    wanted = _dtype(dtype, place, device_map)
    if isinstance(wanted, torch.dtype):
        return str(wanted).removeprefix("torch."), place.type
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    return config.get("dtype") or config.get("torch_dtype") or "as saved", place.type


def _dtype(dtype: str, place: torch.device, device_map: str | None) -> torch.dtype | str:
    return DTYPES.get(dtype, torch.float32 if place.type == "cpu" and device_map is None else "auto")


def _device(device: str) -> torch.device:
    accelerators = [kind for kind, there in _accelerators() if there]
    if device == "auto":
        return torch.device((*accelerators, "cpu")[0])
    try:
        place = torch.device(device)
        if place.type not in ("cuda", "mps", "xpu", "cpu"):
            raise RuntimeError(place.type)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError):  # NotImplementedError is a RuntimeError
        there = ", ".join([*accelerators, "cpu"])
        raise ModelError(f"--device {show(device)}: not on this machine; it has {there}") from None
    return place


def _check_kind(network: nn.Module, name: str) -> None:
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
    ):
        raise ModelError(
            f"model {show(name)}: {config.model_type} keeps its past in a way that steer cannot batch; "
            "use a model with plain or sliding attention, such as Llama, Gemma, Qwen or GPT-2"
        )


def _accelerators() -> list[tuple[str, bool]]:
    return [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]


def _from_pretrained(folder: Path, name: str, dtype: object, place: object) -> nn.Module:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map=place,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model {show(name)}: cannot be loaded as a causal language model: {reason}"
        ) from None


def find_blocks(network: nn.Module, depth: int, name: str) -> nn.ModuleList:
    """The list of transformer blocks: the outermost list of `depth` modules, whatever its name is.

    Raises:
        ModelError: there is none.
    """
    # Only the text's part: an image encoder beside it may have a list of the same length.
    for _, module in network.get_decoder().named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ModelError(f"model {show(name)}: no list of {depth} blocks in {type(network).__name__}")


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's weights (dequantised, float32) and tokenizer to an existing folder.

    Raises:
        ModelError: the file is no GGUF, is damaged or incomplete, or has an architecture that transformers
            does not know.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name, "local_files_only": True}
    try:
        # Its own progress bar would write over ours; ours stands for the whole conversion.
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            network, info = AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(**where)
    except BaseException as error:  # a damaged file raises anything, panics of tokenizers included
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{gguf}: cannot be converted: {reason}") from None
    for fault in ("missing", "unexpected", "mismatched"):
        if keys := sorted(map(str, info[f"{fault}_keys"])):
            # Those that are missing would be filled with random numbers.
            raise ModelError(f"{gguf}: cannot be converted: {fault} tensors: {', '.join(keys)[:200]}")
    # What was dequantised may be saved; transformers refuses as long as it believes it quantised.
    network.hf_quantizer = None
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
