"""Values that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from steer_cli.recipe.chat import Chat

Record = dict[str, Any]


def with_chat(record: Record, chat: Chat | None) -> Record:
    """The record with the keys of a chat, as a recipe has them, after that of the prompt, which is short."""
    keys: Record = {}
    for key, value in record.items():
        if key != "chat":
            keys[key] = value
        if key == "prompt" and chat is not None:
            keys |= chat.record()
    return keys


def with_files(record: Record, files: Record) -> Record:
    """The record with the files that the vectors come from, if there are any."""
    kept = {key: value for key, value in record.items() if key != "files"}
    return kept | {"files": files} if files else kept


def finite(values: Iterable[float]) -> list[float | None]:
    """Replace values that JSON cannot hold, such as the ratio to a stream of zeros, by None."""
    return [value if math.isfinite(value) else None for value in values]
