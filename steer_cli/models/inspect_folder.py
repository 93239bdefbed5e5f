"""Check which files of a model's folder may be opened, and what its config.json may choose.

This comes before any library sees the folder, since transformers follows names out of it, may read pickles,
and lets keys of config.json choose kernels, adapters and quantisers.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steer_cli.errors import ModelError
from steer_cli.planning.json_file import read_object, text_part
from steer_cli.recipe.quoting import show

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_INDEX = 100_000_000  # bytes
LARGEST_TOKENIZER = 500_000_000
TEXTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "steer.json",
)
MOST_BLOCKS = 1000  # the deepest known models have about 200
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
QUANTISED = ("quantization_config", "compression_config")
# Keys with which config.json could choose code or other files. Without them, transformers uses the attention
# it prefers for the class: sdpa, or else eager. Labels belong to classifiers; a number in the file would
# decide how many are made.
LEFT_OUT = {
    *("_attn_implementation", "attn_implementation", "_attn_implementation_internal"),
    *("_experts_implementation", "experts_implementation", "_experts_implementation_internal"),
    *("auto_map", "custom_pipelines", "use_kernels", "kernel_config", "fusion_config", "distributed_config"),
    *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict", "torchscript"),
    *("configuration_files", "_name_or_path", "name_or_path", "_commit_hash"),
    *("num_labels", "id2label", "label2id", "gradient_checkpointing", "tp_plan", "pp_plan"),
}


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Read config.json; empty if there is none.

    Raises:
        ModelError: it cannot be read, or is not an object.
    """
    return _read(folder, "config.json", name)


def weight_names(folder: Path, name: str) -> list[str]:
    """Names of the weight files, whether or not they exist.

    Raises:
        ModelError: the index cannot be read, or names something other than files of the folder.
    """
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [WEIGHTS]  # as transformers does
    index = _read(folder, INDEX, name, LARGEST_INDEX)
    _refuse_named_weights(index, folder / INDEX, name)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"model {show(name)}: {folder / INDEX}: no weight_map; fetch it again")
    # Keyed by their text, since values may have mixed types; each name once.
    for shard in {str(shard): shard for shard in shards.values()}.values():
        if not (isinstance(shard, str) and _is_plain(shard)):
            raise ModelError(
                f"model {show(name)}: {folder / INDEX}: weight_map: {show(shard)} is not the plain name of a "
                ".safetensors file in the folder; nothing else is opened"
            )
    return sorted({*shards.values()})


def check_files(folder: Path, name: str, weights: Iterable[str] = ()) -> None:
    """Raise ModelError if a file to be opened is not a regular file, or is a link out of the folder."""
    roots = _roots(folder)
    for file in (folder / file for file in (*TEXTS, INDEX, *weights)):
        if not file.is_symlink() and not file.exists():
            continue
        try:
            real = file.resolve(strict=True)
            found = real.stat()
        except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
            raise ModelError(f"model {show(name)}: {file}: a broken link") from None
        if not any(real.is_relative_to(root) for root in roots):
            raise ModelError(
                f"model {show(name)}: {file}: a link out of the folder, to {real}, which is not followed; "
                "put the file itself there"
            )
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"model {show(name)}: {file}: not a regular file")
        if file.name == "tokenizer.json" and found.st_size > LARGEST_TOKENIZER:
            raise ModelError(f"model {show(name)}: {file}: {found.st_size} bytes, too many for a tokenizer")


def check_code_paths(folder: Path, name: str) -> None:
    """Raise ModelError if a folder needs more than a network of transformers and plain weights."""
    config = read_config(folder, name)
    place = folder / "config.json"
    _refuse_named_weights(config, place, name)
    for part in (config, text_part(config)):
        for key in QUANTISED:
            if part.get(key):
                stated = part[key].get("quant_method") if isinstance(part[key], dict) else None
                method = stated if isinstance(stated, str) and stated.isprintable() else key
                raise ModelError(
                    f"model {show(name)}: quantised checkpoints are refused: {method[:40]}; "
                    "use the unquantised model or a .gguf"
                )
        if part.get("is_causal", True) is False or part.get("use_bidirectional_attention"):
            raise ModelError(
                f"model {show(name)}: {place}: its attention is not causal; use a model that completes texts"
            )
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ModelError(f"model {show(name)}: {place}: no model_type, which names the network")
    for file in folder.iterdir():
        if file.name == "adapter_config.json":
            raise ModelError(
                f"model {show(name)}: {file}: adapters are not loaded; merge it into the model first"
            )
        if file.name.startswith("shard-") and file.suffix == ".safetensors":
            raise ModelError(
                f"model {show(name)}: {file}: part of a distributed checkpoint; merge the parts first"
            )


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the keys that choose code or files."""
    return {
        key: plain_config(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in LEFT_OUT
    }


def _read(folder: Path, file: str, name: str, most_bytes: int | None = None) -> dict[str, Any]:
    try:
        return read_object(folder / file, *([] if most_bytes is None else [most_bytes]))
    except ValueError as error:
        raise ModelError(f"model {show(name)}: {folder / file}: {error}") from None


def _refuse_named_weights(content: dict[str, Any], place: Path, name: str) -> None:
    if content.get("transformers_weights") is not None:
        raise ModelError(
            f"model {show(name)}: {place}: transformers_weights names another weight file, which is not "
            f"opened; rename the file to {WEIGHTS} and remove the key"
        )


def _is_plain(name: str) -> bool:
    return (
        name.endswith(".safetensors")
        and not name.startswith(".")
        and not {"/", "\\", "\0", ":"} & {*name}
        and name.isprintable()
    )


def _roots(folder: Path) -> list[Path]:
    """Where files may be: in the folder, or among the blobs if it is part of the hub's cache."""
    folder = folder.resolve()
    snapshots, repository = folder.parent, folder.parent.parent
    if snapshots.name == "snapshots" and repository.name.startswith("models--"):
        return [folder, repository / "blobs"]
    return [folder]
