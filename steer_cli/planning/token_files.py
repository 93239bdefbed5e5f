"""What the JSON files of a model's folder say of its tokens: texts, ids, how many have embeddings.

This module does not read the tokenizer itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer_cli.errors import TokenError
from steer_cli.planning.json_file import read_object, text_part


@dataclass(frozen=True)
class StatedIds:
    """Ids that config.json and generation_config.json name; the latter counts where both do."""

    bos: int | None
    eos: tuple[int, ...]
    embeddings: int | None  # how many tokens the model has embeddings for, where config.json says it


def stated_ids(folder: Path) -> StatedIds:
    """Raises TokenError where a file cannot be read, or an id is no number."""
    config, generation = (_read(folder, file) for file in ("config.json", "generation_config.json"))
    both = config | generation
    bos = _ids(folder, both, "bos_token_id")
    size = text_part(config).get("vocab_size")
    return StatedIds(
        bos[0] if bos else None, _ids(folder, both, "eos_token_id"), size if _is_id(size) else None
    )


def stated_tokens(folder: Path) -> dict[str, str | None]:
    """Texts of the tokens that begin and end a text, under bos and eos; None for one that is not named.

    Raises:
        TokenError: a file cannot be read, or a name is no text.
    """
    config = _read(folder, "special_tokens_map.json") | _read(folder, "tokenizer_config.json")
    tokens = {}
    for key in ("bos", "eos"):
        token = config.get(f"{key}_token")
        # Folders saved by older releases hold a special token as an object.
        tokens[key] = token.get("content") if isinstance(token, dict) else token
        if not isinstance(tokens[key], str | None):
            raise TokenError(f"{folder}: tokenizer_config.json: {key}_token: not the text of a token")
    return tokens


def check_vocabulary(folder: Path, tokens: int, embeddings: int) -> None:
    """Raises TokenError where a tokenizer has more tokens than a model has embeddings for."""
    if tokens > embeddings:
        raise TokenError(
            f"{folder}: the tokenizer has {tokens} tokens and the model has embeddings for {embeddings}; "
            "use the tokenizer that belongs to the model"
        )


def check_ids(folder: Path, ids: Mapping[str, Sequence[int]], embeddings: int | None) -> None:
    """Raises TokenError where one of the ids under a key is none of the model's."""
    for key, id in ((key, id) for key, several in ids.items() for id in several):
        if id < 0 or (embeddings is not None and id >= embeddings):
            there = "" if embeddings is None else f", which has embeddings for {embeddings}"
            raise TokenError(
                f"{folder}: {key}: token {id} is none of the model's{there}; mend config.json, "
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
        raise TokenError(f"{folder}: config.json: {key}: not the number of a token, or a list of such")
    return tuple(ids)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
