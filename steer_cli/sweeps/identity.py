"""Digests by which a store knows a recipe again, and what it is computed with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from steer_cli.models.hardware import Hardware
from steer_cli.models.identity import digest
from steer_cli.models.located import Located
from steer_cli.planning.chat import FILE, chats_of
from steer_cli.recipe.schema import Recipe

if TYPE_CHECKING:
    from steer_cli.models.load import Model

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
# Keys of an addition that earlier releases lacked, and the values with which their stores go on.
NEW_KEYS = {"operation": "add", "texts": None, "vector": None, "from": None, "read": None}


def digest_of(recipe: Recipe, files: Sequence[dict[str, Any]]) -> str:
    """Digest of what a recipe computes.

    Args:
        files: those that its additions name, with their digests.
    """
    settings = recipe.model_dump(mode="json", exclude={"name", "description", "measured", "source", "model"})
    for addition in settings["additions"]:
        for key, default in NEW_KEYS.items():
            if addition[key] == default:
                del addition[key]
    return digest(settings | ({"files": files} if files else {}))


def tokenizer_files(recipe: Recipe) -> tuple[str, ...]:
    """The files on which the recipe's tokens depend; without a chat, the template changes nothing."""
    return (*TOKENIZER, FILE) if chats_of(recipe) else TOKENIZER


def computes_with(located: Located, source: Model | Hardware, elsewhere: bool = False) -> tuple[str, str]:
    """Names of the precision and kind of device of a model that is loaded, or will be.

    Args:
        elsewhere: other machines load it, and may have devices that this one lacks.
    """
    if isinstance(source, Hardware):
        from steer_cli.models.load import resolved

        if elsewhere and source.device.startswith("cuda"):
            return resolved(located, replace(source, device="auto"))[0], "cuda"
        return resolved(located, source)
    return source.dtype, source.network.device.type
