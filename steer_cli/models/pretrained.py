"""Load models that have no plain network, and convert GGUF files, with transformers.

This is the only module that imports transformers.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from contextlib import redirect_stderr, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from steer_cli.errors import ModelError
from steer_cli.models.inspect_folder import plain_config, read_config, weight_names
from steer_cli.networks.refusals import check_size, check_weights, drop_strays
from steer_cli.recipe.quoting import show


def new_cache() -> Any:
    """An empty cache that keeps all positions, even in blocks with a sliding window."""
    from transformers import DynamicCache

    # Made without the config, which would make it drop positions that have left a window.
    return DynamicCache()


def from_pretrained(folder: Path, name: str, dtype: object, place: torch.device | str) -> Any:
    """A ...ForCausalLM in evaluation mode, with all of its weights.

    Args:
        dtype: a torch dtype, or auto for the checkpoint's.
        place: a device, or the name of a device map, such as auto, which spreads the model over all of them.

    Raises:
        ModelError: it cannot be loaded as a causal language model.
    """
    values = read_config(folder, name)
    from transformers import AutoModelForCausalLM

    _be_silent()
    try:
        config = _config(values)
        files = [folder / file for file in weight_names(folder, name)]
        check_size(_outline(config), sum(file.stat().st_size for file in files), name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map=place if isinstance(place, str) else None,  # which needs accelerate
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused by name below
        )
    except (ModelError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    # Anything may be raised: whatever a value in config.json causes, ImportError for packages that a model
    # needs, and panics of safetensors, which are not subclasses of Exception.
    except BaseException as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"model {show(name)}: cannot be loaded as a causal language model: {reason}"
        ) from None
    network, info = loaded
    check_weights(network, info, f"model {show(name)}")
    network.eval().requires_grad_(False)
    return network if isinstance(place, str) else network.to(place)


def _config(values: dict[str, Any]) -> Any:
    """The configuration from config.json, without keys that would choose code or files."""
    from transformers import AutoConfig

    # From a file, as transformers checks more than the class before it makes a configuration.
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(plain_config(values)), encoding="utf-8")
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    drop_strays(config.get_text_config())
    return config


def _outline(config: Any) -> nn.Module | None:
    """A configuration's network without weights; None if it cannot be made."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with (
        suppress(Exception),
        torch.device("meta"),
        no_init_weights(),
    ):  # `from_pretrained` will report why
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return None


def _be_silent() -> None:
    from transformers.utils import logging as its_logging

    its_logging.set_verbosity(logging.CRITICAL)
    its_logging.disable_progress_bar()


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's weights (dequantised, float32) and tokenizer to an existing folder.

    Raises:
        ModelError: the file is not GGUF, is damaged or incomplete, or has an architecture unknown to
            transformers.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _be_silent()
    where: dict[str, Any] = {
        "pretrained_model_name_or_path": gguf.parent,
        "gguf_file": gguf.name,
        "local_files_only": True,
    }
    try:
        # Its progress bar would overwrite ours, which covers the whole conversion.
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(**where)
    except BaseException as error:  # a damaged file may raise anything, including panics of tokenizers
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{gguf}: cannot be converted: {reason}") from None
    network, info = loaded
    check_weights(network, info, str(gguf))
    # The weights are dequantised, but transformers refuses to save them while it takes them for quantised.
    network.hf_quantizer = None
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
