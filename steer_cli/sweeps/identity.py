"""Digests by which a store knows the recipe and the model again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steer_cli.errors import ModelError
from steer_cli.models import atomic_folder
from steer_cli.models.fingerprint import sha256_of
from steer_cli.models.hardware import Hardware
from steer_cli.models.located import Located
from steer_cli.planning.chat import FILE, chats_of
from steer_cli.recipe.schema import Recipe

if TYPE_CHECKING:
    from steer_cli.models.load import Model

# The files in a model's folder on which the figures depend.
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
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
    return _digest(settings | ({"files": files} if files else {}))


def tokenizer_files(recipe: Recipe) -> tuple[str, ...]:
    """The files on which the recipe's tokens depend; without a chat, the template changes nothing."""
    return (*TOKENIZER, FILE) if chats_of(recipe) else TOKENIZER


def fingerprint(located: Located, patterns: Sequence[str]) -> str:
    """Distinguish models of the same name by the bytes of their files, or by the hub's commit."""
    files = sorted(file for pattern in patterns for file in located.folder.glob(pattern) if file.is_file())
    folder = located.folder
    commit = folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name)
    # The hub's cache holds links; a plain file among them may hold anything.
    if commit and all(file.is_symlink() for file in files):
        return folder.name[:16]
    memory = atomic_folder.memory()
    try:
        return _digest([(file.name, sha256_of(file, memory)) for file in files])
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}: the model's files must be readable") from None


def computes_with(located: Located, source: Model | Hardware) -> tuple[str, str]:
    """Names of the precision and kind of device of a model that is loaded, or will be."""
    if isinstance(source, Hardware):
        from steer_cli.models.load import resolved

        return resolved(located, source)
    return source.dtype, source.network.device.type


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
