"""A model's name -> the folder that holds it: catalogue name, local folder, .gguf file or hub id.

This module opens no weights; it only makes sure that every file is there before anything slow begins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from steer_cli import catalogue
from steer_cli.document import show
from steer_cli.errors import ModelError

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HUB_SECONDS = 10  # a hub that does not answer within this is out of reach
LARGEST_NAME = 96  # characters of a hub id


@dataclass(frozen=True)
class Located:
    """Where a model is, and how its documents begin."""

    name: str
    folder: Path
    bos: str = "auto"

    @property
    def also_eos(self) -> str | None:
        """The token that starts a document also ends the one before it."""
        return None if self.bos == "auto" else self.bos

    @property
    def blocks(self) -> int | None:
        """Depth by config.json; None where the folder has none."""
        return self._number("num_hidden_layers", "n_layer", "n_layers", "num_layers")

    @property
    def context(self) -> int | None:
        """Longest row that the model was made for, in tokens; None where it is not said."""
        return self._number("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")

    @cached_property
    def _config(self) -> dict[str, Any]:
        # Kept, as every prompt is held against the context.
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return config.get("text_config", config) if isinstance(config, dict) else {}

    def _number(self, *keys: str) -> int | None:
        number = next((self._config[key] for key in keys if key in self._config), None)
        return number if isinstance(number, int) else None


def locate(
    name: str,
    convert: catalogue.Convert,
    weights: bool = True,
    progress: catalogue.Progress = catalogue.silent,
    note: catalogue.Note = catalogue.silent,
) -> Located:
    """Find a model, and fetch or convert it where that is needed.

    Args:
        name: catalogue name, folder, .gguf file or hub id, looked up in this order.
        convert: turns a GGUF file into a folder.
        weights: False when the tokenizer's files are enough.

    Raises:
        ModelError: there is no such model, it is incomplete, pickled, or the hub is out of reach.
        CatalogueError: a model of the catalogue cannot be fetched.
    """
    path = Path(os.path.expanduser(name))
    if name in catalogue.CATALOGUE:
        located = Located(name, catalogue.pull(name, convert, progress, note), catalogue.CATALOGUE[name].bos)
    elif os.path.isdir(path):
        located = Located(name, path)
    elif path.suffix == ".gguf":
        located = Located(name, catalogue.converted(path, convert, progress, note))
    elif path.suffix in PICKLED or os.path.isfile(path):
        raise ModelError(f"model {show(name)}: not a folder or a .gguf file; pickled weights are refused")
    elif (
        name.count("/") > 1
        or name.startswith((".", "/", "~"))
        or len(name) > LARGEST_NAME
        or not name.strip()
    ):
        raise ModelError(f"model {show(name)}: no such folder or file; {_ways()}")
    else:
        located = Located(name, _from_hub(name, weights, note))
    if weights:
        _check_weights(located.folder, name)
        if located.blocks is None:
            raise ModelError(f"model {show(name)}: config.json does not say how many blocks it has")
    return located


def _ways() -> str:
    return f"models that need no hub: {', '.join(catalogue.CATALOGUE)} (`steer models`)"


def missing_weights(folder: Path) -> list[str]:
    """Names of the weight files that a folder lacks; empty when it is complete."""
    index = folder / "model.safetensors.index.json"
    if (folder / "config.json").is_file() and index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return [f"{index.name} (unreadable)"]
        return sorted(shard for shard in shards if not (folder / shard).is_file())
    wanted = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    return wanted


def _check_weights(folder: Path, name: str) -> None:
    missing = missing_weights(folder)
    if missing and any(file.suffix in PICKLED for file in folder.iterdir()):
        raise ModelError(
            f"model {show(name)}: only pickled weights, which are refused; save them as safetensors "
            "with transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    if missing:
        raise ModelError(f"model {show(name)}: {', '.join(missing[:3])} missing in {folder}; fetch it again")


def _from_hub(name: str, weights: bool, note: Callable[[str], None]) -> Path:
    # Read once, at import: without it a hub that does not answer is waited for much longer.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(HUB_SECONDS))
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(HUB_SECONDS))
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    texts = ["*.json", "merges.txt"]
    wanted = [*texts, "*.safetensors"] if weights else texts
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted, local_files_only=True))
        if not (missing_weights(folder) if weights else not (folder / "tokenizer.json").is_file()):
            return folder
    except (LocalEntryNotFoundError, OSError):
        pass
    except HFValidationError:
        raise ModelError(f"model {show(name)}: not a hub id, a folder or a file; {_ways()}") from None
    note(f"looking for {name} on the hub")
    try:
        # Asked first because only this call takes a time limit.
        HfApi().model_info(name, timeout=HUB_SECONDS)
        return Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=HUB_SECONDS))
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        reason = {401: "no such model, or a private one", 403: "access is refused", 404: "no such model"}
        raise ModelError(
            f"model {show(name)}: {reason.get(status, f'the hub answered {status}')}; {_ways()}"
        ) from None
    except Exception as error:  # the hub's library lets those of whichever client it uses pass
        cause = error.__cause__ or error
        reason = f"not on this machine, and the hub is out of reach ({type(cause).__name__})"
        raise ModelError(f"model {show(name)}: {reason}; {_ways()}") from None
