"""Weights, device, dtype and the list of blocks: the only importer of transformers.

This module does not know what is done to the stream between the blocks.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from steer_cli.errors import ModelError
from steer_cli.models.inspect_folder import plain_config, read_config, weight_names
from steer_cli.networks.kinds import check_kind, check_size, check_weights, drop_strays, find_blocks
from steer_cli.planning.json_file import text_part
from steer_cli.planning.token_files import check_vocabulary
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.yaml_source import show

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
    check_kind(network, name)
    _check_tokenizer(folder, network.get_input_embeddings().weight.shape[0], name)
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
    config = read_config(folder, str(folder))
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


def _accelerators() -> list[tuple[str, bool]]:
    return [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]


def _from_pretrained(folder: Path, name: str, dtype: object, place: object) -> nn.Module:
    values = read_config(folder, name)
    from transformers import AutoModelForCausalLM

    _be_silent()
    try:
        config = _config(values)
        files = [folder / file for file in weight_names(folder, name)]
        check_size(_outline(config), sum(file.stat().st_size for file in files), name)
        network, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map=place,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused by name, below
        )
    except (ModelError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    # It raises anything: whatever a value of config.json comes to in the making of a network, ImportError of
    # packages that a kind of model asks for, and panics of safetensors, which are no Exception.
    except BaseException as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"model {show(name)}: cannot be loaded as a causal language model: {reason}"
        ) from None
    check_weights(network, info, f"model {show(name)}")
    return network


def _config(values: dict[str, Any]) -> Any:
    """The configuration of a network from what config.json holds, without what would choose code or files."""
    from transformers import AutoConfig

    # By way of a file, as transformers looks at more than the class before it makes a configuration.
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(plain_config(values)), encoding="utf-8")
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    drop_strays(config.get_text_config())
    return config


def _check_tokenizer(folder: Path, embeddings: int, name: str) -> None:
    """Hold a tokenizer against the weights where config.json does not state how many tokens there are."""
    if text_part(read_config(folder, name)).get("vocab_size") is None:
        tokenizer = open_tokenizer(folder, bos="none").backend
        check_vocabulary(folder, tokenizer.get_vocab_size(with_added_tokens=False), embeddings)


def _outline(config: Any) -> nn.Module | None:
    """The network of a configuration without weights; None where it cannot be made so."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with (
        suppress(Exception),
        torch.device("meta"),
        no_init_weights(),
    ):  # as `from_pretrained` will say why not
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return None


def _be_silent() -> None:
    from transformers.utils import logging as its_logging

    its_logging.set_verbosity(logging.CRITICAL)
    its_logging.disable_progress_bar()


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's weights (dequantised, float32) and tokenizer to an existing folder.

    Raises:
        ModelError: the file is no GGUF, is damaged or incomplete, or has an architecture that transformers
            does not know.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _be_silent()
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
    check_weights(network, info, str(gguf))
    # What was dequantised may be saved; transformers refuses as long as it believes it quantised.
    network.hf_quantizer = None
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
