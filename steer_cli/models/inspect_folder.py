"""What may be opened of a model's folder, and what its config.json may choose.

Looked at before any library sees the folder: transformers follows names out of it, reads pickles by some of
them, and takes kernels, adapters and quantisers from keys of config.json.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steer_cli.errors import ModelError
from steer_cli.planning.json_file import read_object, text_part
from steer_cli.recipe.yaml_source import show

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
)
MOST_BLOCKS = 1000  # the deepest models have some two hundred
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
QUANTISED = ("quantization_config", "compression_config")
# Keys by which config.json would choose code or other files. transformers is given the others, and then takes
# the attention that it prefers for the class: sdpa, or eager where there is no sdpa. Labels are those of
# classifiers, made as long as a number says.
LEFT_OUT = {
    *("_attn_implementation", "attn_implementation", "_attn_implementation_internal"),
    *("_experts_implementation", "experts_implementation", "_experts_implementation_internal"),
    *("auto_map", "custom_pipelines", "use_kernels", "kernel_config", "fusion_config", "distributed_config"),
    *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict", "torchscript"),
    *("configuration_files", "_name_or_path", "name_or_path", "_commit_hash"),
    *("num_labels", "id2label", "label2id", "gradient_checkpointing", "tp_plan", "pp_plan"),
}


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """config.json; empty where there is none.

    Raises:
        ModelError: it cannot be read, or is no object.
    """
    return _read(folder, "config.json", name)


def weight_names(folder: Path, name: str) -> list[str]:
    """Names of the files that hold the weights; whether they are there is not looked at.

    Raises:
        ModelError: an index that cannot be read, or that names something else than files of the folder.
    """
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [WEIGHTS]  # as transformers does
    index = _read(folder, INDEX, name, LARGEST_INDEX)
    _refuse_named_weights(index, folder / INDEX, name)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"model {show(name)}: {folder / INDEX}: no weight_map; fetch it again")
    # Strings only, so that they can be sorted; each name once.
    for shard in {str(shard): shard for shard in shards.values()}.values():
        if not (isinstance(shard, str) and _is_plain(shard)):
            raise ModelError(
                f"model {show(name)}: {folder / INDEX}: weight_map: {show(shard)} is not the plain name of a "
                ".safetensors file in the folder; nothing else is opened"
            )
    return sorted({*shards.values()})


def check_files(folder: Path, name: str, weights: Iterable[str] = ()) -> None:
    """Raises ModelError where a file that would be opened is no regular file, or a link out of the folder."""
    roots = _roots(folder)
    for file in (folder / each for each in (*TEXTS, INDEX, *weights)):
        if not file.is_symlink() and not file.exists():
            continue
        try:
            real = file.resolve(strict=True)
            found = real.stat()
        except (OSError, RuntimeError):  # RuntimeError: a loop, until Python 3.13
            raise ModelError(f"model {show(name)}: {file}: a link that leads nowhere") from None
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
    """Raises ModelError where a folder asks for more than a network of transformers and plain weights."""
    config = read_config(folder, name)
    place = folder / "config.json"
    _refuse_named_weights(config, place, name)
    for part in (config, text_part(config)):
        for key in QUANTISED:
            if part.get(key):
                said = part[key].get("quant_method") if isinstance(part[key], dict) else None
                method = said if isinstance(said, str) and said.isprintable() else key
                raise ModelError(
                    f"model {show(name)}: quantised checkpoints are refused: {method[:40]}; "
                    "use the unquantised one or a .gguf"
                )
        if part.get("is_causal", True) is False or part.get("use_bidirectional_attention"):
            raise ModelError(
                f"model {show(name)}: {place}: its attention is not causal; it completes no texts"
            )
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ModelError(f"model {show(name)}: {place}: model_type is missing, which says what network it is")
    for file in folder.iterdir():
        if file.name == "adapter_config.json":
            raise ModelError(
                f"model {show(name)}: {file}: adapters are not loaded; merge it into the model and save that"
            )
        if file.name.startswith("shard-") and file.suffix == ".safetensors":
            raise ModelError(
                f"model {show(name)}: {file}: a part of a distributed checkpoint; merge them first"
            )


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that describe the network and its parts, without those that choose code or files."""
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
            f"model {show(name)}: {place}: transformers_weights names another file of weights, which is not "
            f"opened; call the file {WEIGHTS} and take the key out"
        )


def _is_plain(name: str) -> bool:
    return (
        name.endswith(".safetensors")
        and not name.startswith(".")
        and not {"/", "\\", "\0", ":"} & {*name}
        and name.isprintable()
    )


def _roots(folder: Path) -> list[Path]:
    """Where files of the folder may lie: in it, or among the blobs of the hub's cache that it is part of."""
    folder = folder.resolve()
    snapshots, repository = folder.parent, folder.parent.parent
    if snapshots.name == "snapshots" and repository.name.startswith("models--"):
        return [folder, repository / "blobs"]
    return [folder]
