"""Find the folder of a model by its name: catalogue name, local folder, .gguf file or hub id.

No weights are opened, but every file is known to exist before anything slow begins.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from steer_cli.errors import ModelError
from steer_cli.events import Note, Progress, silent
from steer_cli.models import catalogue
from steer_cli.models.inspect_folder import (
    MOST_BLOCKS,
    PICKLED,
    check_code_paths,
    check_files,
    read_config,
    weight_names,
)
from steer_cli.planning.json_file import text_part
from steer_cli.planning.plan import ModelFacts
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.yaml_source import show

# Rotary frequencies that change with the longest row of a pass, once it exceeds the length under this key:
# rows that share a pass would influence each other.
CHANGING_ROPE = {"dynamic": "max_position_embeddings", "longrope": "original_max_position_embeddings"}
HUB_SECONDS = 10  # without an answer for this long, the hub counts as out of reach
PHI = ("phi3", "phi4_multimodal", "phimoe")  # these treat other kinds as longrope too
DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
AT_LEAST_ONE = (
    *("hidden_size", "n_embd", "num_attention_heads", "n_head", "num_key_value_heads", "head_dim"),
    *("vocab_size", "max_position_embeddings", "n_positions"),
)
LARGEST_NAME = 96  # characters of a hub id


@dataclass(frozen=True)
class Located:
    """Where a model is, and which token begins its documents."""

    name: str
    folder: Path
    bos: str = "auto"

    @property
    def also_eos(self) -> str | None:
        """The token that begins a document also ends the previous one."""
        return None if self.bos == "auto" else self.bos

    def facts(self, bos: str = "auto") -> ModelFacts:
        """What planning has to know; reads the tokenizer.

        Args:
            bos: as in a recipe; auto is how the model's documents begin.

        Raises:
            TokenError: there is no usable tokenizer, or it has no such token.
        """
        tokenizer = open_tokenizer(self.folder, self.bos if bos == "auto" else bos, self.also_eos)
        return ModelFacts(self.name, tokenizer, self.blocks, self.context, self.limited)

    @property
    def blocks(self) -> int | None:
        """Depth according to config.json; None if unknown."""
        return self._number(*DEPTH)

    @property
    def context(self) -> int | None:
        """Longest row that the model can run, in tokens; None if no limit is stated."""
        limits = [self._stated, *(length for _, length in self._changing)]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def limited(self) -> str:
        """The name, with the reason if the context is shorter than the model's own."""
        reasons = [rope for rope, length in self._changing if length is not None and length == self.context]
        return f"{self.name}, whose {reasons[0]} positions change with longer rows" if reasons else self.name

    @property
    def _stated(self) -> int | None:
        # The first two are the same thing under two names.
        both = [self._number(key) for key in ("max_position_embeddings", "n_positions")]
        stated = [length for length in both if length is not None]
        return min(stated) if stated else self._number("max_seq_len", "n_ctx")

    @property
    def _changing(self) -> list[tuple[str, int | None]]:
        """Each kind of changing rotary frequencies, and the length beyond which they change, if stated."""
        outer = [self._config.get(key) for key in ("rope_parameters", "rope_scaling")]
        # Models with several kinds of blocks have one of these per kind.
        ropes = [rope for rope in outer if isinstance(rope, dict)]
        ropes += [inner for rope in ropes for inner in rope.values() if isinstance(inner, dict)]
        model_type, found = self._config.get("model_type"), []
        for rope in ropes:
            kind = str(rope.get("rope_type", rope.get("type", "default")))
            if kind == "su" or (model_type in PHI and kind != "default"):
                kind = "longrope"
            for changing, length in CHANGING_ROPE.items():
                if changing in kind:
                    # Phi-3 uses the outer length, and its own if that is missing.
                    inner = None if model_type in PHI[:2] else _whole(rope.get(length))
                    lengths = [value for value in (self._number(length), inner) if value is not None]
                    found.append((changing, min(lengths, default=None)))
        return found

    @cached_property
    def _config(self) -> dict[str, Any]:
        # Cached, because every prompt is checked against the context.
        return text_part(read_config(self.folder, self.name))

    def _number(self, *keys: str) -> int | None:
        return _whole(next((self._config[key] for key in keys if self._config.get(key) is not None), None))

    def check(self) -> None:
        """Raise ModelError if config.json does not describe a network whose rows can share a batch."""
        if self.blocks is None:
            raise ModelError(f"model {show(self.name)}: config.json does not state the number of blocks")
        depths = {depth for key in DEPTH if (depth := self._number(key)) is not None}
        if len(depths) > 1:
            raise ModelError(
                f"model {show(self.name)}: config.json asks for "
                f"{' and '.join(map(str, sorted(depths)))} blocks"
            )
        if not 1 <= self.blocks <= MOST_BLOCKS:
            raise ModelError(
                f"model {show(self.name)}: config.json: {self.blocks} blocks; 1 to {MOST_BLOCKS}"
            )
        for key in AT_LEAST_ONE:
            size = self._number(key)
            if size is not None and size < 1:
                raise ModelError(f"model {show(self.name)}: config.json: {key}: {size} is less than 1")
        for rope, length in self._changing:
            if length is None:
                raise ModelError(
                    f"model {show(self.name)}: config.json: {rope} positions without "
                    f"{CHANGING_ROPE[rope]}: the length beyond which rows influence each other is unknown"
                )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def pull(name: str, progress: Progress = silent, note: Note = silent) -> Path:
    """Fetch and convert a model of the catalogue unless it is there; returns its folder.

    Raises:
        CatalogueError: there is no such model, or it cannot be fetched.
    """
    return catalogue.pull(name, _convert_gguf, progress, note)


def _convert_gguf(gguf: Path, folder: Path) -> None:
    # torch and transformers are imported only where there is something to convert.
    from steer_cli.models.pretrained import convert_gguf

    convert_gguf(gguf, folder)


def locate(
    name: str,
    weights: bool = True,
    progress: Progress = silent,
    note: Note = silent,
) -> Located:
    """Find a model; fetch or convert it if needed.

    Args:
        name: catalogue name, folder, .gguf file or hub id, looked up in this order.
        weights: False if the tokenizer's files are enough.

    Raises:
        ModelError: there is no such model, it is incomplete, pickled, or the hub is out of reach.
        CatalogueError: a model of the catalogue cannot be fetched.
    """
    path = Path(os.path.expanduser(name))
    if name in catalogue.CATALOGUE:
        located = Located(name, pull(name, progress, note), catalogue.CATALOGUE[name].bos)
    elif os.path.isdir(path):
        located = Located(name, path)
    elif path.suffix == ".gguf":
        located = Located(name, catalogue.converted(path, _convert_gguf, progress, note))
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
    try:
        check_files(located.folder, name)
        if weights:
            _check_weights(located.folder, name)
            check_code_paths(located.folder, name)
            located.check()
    except OSError as error:
        raise ModelError(
            f"model {show(name)}: {error.filename or located.folder}: {error.strerror}"
        ) from None
    return located


def _ways() -> str:
    return f"models that need no hub: {', '.join(catalogue.CATALOGUE)} (`steer models`)"


def missing_weights(folder: Path, name: str) -> list[str]:
    """Names of the files that a folder lacks to be loaded; empty if it is complete.

    Raises:
        ModelError: the index of the weights is at fault.
    """
    wanted = ["config.json", *weight_names(folder, name)]
    return [file for file in wanted if not (folder / file).is_file()]


def _check_weights(folder: Path, name: str) -> None:
    check_files(folder, name, weight_names(folder, name))
    missing = missing_weights(folder, name)
    if missing and any(file.suffix in PICKLED for file in folder.iterdir()):
        raise ModelError(
            f"model {show(name)}: only pickled weights, which are refused; save them as safetensors "
            "with transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    if missing:
        raise ModelError(f"model {show(name)}: {', '.join(missing[:3])} missing in {folder}; fetch it again")


def _from_hub(name: str, weights: bool, note: Callable[[str], None]) -> Path:
    # Read once, at import; the default waits much longer for a hub that does not answer.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(HUB_SECONDS))
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(HUB_SECONDS))
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    texts = ["*.json", "merges.txt"]
    wanted = [*texts, "*.safetensors"] if weights else texts
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted, local_files_only=True))
        if not (missing_weights(folder, name) if weights else not (folder / "tokenizer.json").is_file()):
            return folder
    except (LocalEntryNotFoundError, OSError):
        pass
    except HFValidationError:
        raise ModelError(f"model {show(name)}: not a hub id, a folder or a file; {_ways()}") from None
    note(f"looking for {name} on the hub")
    try:
        # Called first because only this call takes a time limit.
        HfApi().model_info(name, timeout=HUB_SECONDS)
        return Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=HUB_SECONDS))
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        meaning = {401: "no such model, or a private one", 403: "access is refused", 404: "no such model"}
        answer = meaning.get(status or 0, f"the hub answered {status}")
        raise ModelError(f"model {show(name)}: {answer}; {_ways()}") from None
    except Exception as error:  # the hub's library passes on errors of whichever client it uses
        cause = error.__cause__ or error
        reason = f"not on this machine, and the hub is out of reach ({type(cause).__name__})"
        raise ModelError(f"model {show(name)}: {reason}; {_ways()}") from None
