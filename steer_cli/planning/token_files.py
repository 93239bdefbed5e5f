"""Read a model's special tokens and vocabulary size from the JSON files in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer_cli.errors import TokenError
from steer_cli.planning.json_file import read_object, text_part


@dataclass(frozen=True)
class StatedIds:
    """Ids from config.json and generation_config.json; the latter wins."""

    bos: int | None
    eos: tuple[int, ...]
    embeddings: int | None  # number of tokens with an embedding, if config.json states it


def stated_ids(folder: Path) -> StatedIds:
    """Raise TokenError if a file cannot be read, or an id is not a number."""
    config, generation = (_read(folder, file) for file in ("config.json", "generation_config.json"))
    both = config | generation
    bos = _ids(folder, both, "bos_token_id")
    size = text_part(config).get("vocab_size")
    return StatedIds(
        bos[0] if bos else None, _ids(folder, both, "eos_token_id"), size if _is_id(size) else None
    )


def stated_tokens(folder: Path) -> dict[str, str | None]:
    """Texts of the tokens that begin and end a document, as bos and eos; None if not stated.

    Raises:
        TokenError: a file cannot be read, or a name is not a text.
    """
    config = _read(folder, "special_tokens_map.json") | _read(folder, "tokenizer_config.json")
    tokens = {}
    for key in ("bos", "eos"):
        token = config.get(f"{key}_token")
        # Older releases of transformers save special tokens as objects.
        tokens[key] = token.get("content") if isinstance(token, dict) else token
        if not isinstance(tokens[key], str | None):
            raise TokenError(f"{folder}: tokenizer_config.json: {key}_token: not the text of a token")
    return tokens


def check_vocabulary(folder: Path, tokens: int, embeddings: int) -> None:
    """Raise TokenError if the tokenizer has more tokens than the model has embeddings."""
    if tokens > embeddings:
        raise TokenError(
            f"{folder}: the tokenizer has {tokens} tokens and the model has embeddings for {embeddings}; "
            "use the tokenizer that belongs to the model"
        )


def check_ids(folder: Path, ids: Mapping[str, Sequence[int]], embeddings: int | None) -> None:
    """Raise TokenError if one of these ids is not a token of the model."""
    for key, id in ((key, id) for key, several in ids.items() for id in several):
        if id < 0 or (embeddings is not None and id >= embeddings):
            size = "" if embeddings is None else f", which has embeddings for {embeddings}"
            raise TokenError(
                f"{folder}: {key}: token {id} is not in the model{size}; correct config.json, "
                "generation_config.json or tokenizer_config.json"
            )


def _read(folder: Path, file: str) -> dict[str, Any]:
    try:
        return read_object(folder / file)
    except ValueError as error:
        raise TokenError(f"{folder / file}: {error}") from None


def _ids(folder: Path, config: dict[str, Any], key: str) -> tuple[int, ...]:
    value = config.get(key)
    ids = [id for id in (value if isinstance(value, list) else [value]) if id is not None]
    if not all(_is_id(id) for id in ids):
        raise TokenError(f"{folder}: config.json: {key}: not a token id or a list of token ids")
    return tuple(ids)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
