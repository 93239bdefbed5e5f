"""A model that has been found: its depth, context and tokens according to config.json."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from steer_cli.errors import ModelError
from steer_cli.models.inspect_folder import (
    MOST_BLOCKS,
    read_config,
)
from steer_cli.planning.json_file import text_part
from steer_cli.planning.plan import ModelFacts
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.quoting import show

# Rotary types whose frequencies change once the longest row of a pass exceeds the length under this key, so
# that rows sharing a pass would affect each other.
CHANGING_ROPE = {"dynamic": "max_position_embeddings", "longrope": "original_max_position_embeddings"}


PHI = ("phi3", "phi4_multimodal", "phimoe")  # these treat other types as longrope too


DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


AT_LEAST_ONE = (
    *("hidden_size", "n_embd", "num_attention_heads", "n_head", "num_key_value_heads", "head_dim"),
    *("vocab_size", "max_position_embeddings", "n_positions"),
)


@dataclass(frozen=True)
class Located:
    """Where a model is, and which token begins its documents."""

    name: str
    folder: Path
    bos: str = "auto"

    @property
    def revision(self) -> str | None:
        """The commit of a model from the hub; None for others."""
        # The hub's cache keeps each commit in a folder of its own, named after it.
        found = self.folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", self.folder.name)
        return self.folder.name if found else None

    @property
    def model_type(self) -> str:
        """The kind of network, as config.json names it; "" if it does not."""
        return str(self._config.get("model_type") or "")

    @property
    def also_eos(self) -> str | None:
        """The token that begins a document also ends the previous one."""
        return None if self.bos == "auto" else self.bos

    def facts(self, bos: str = "auto") -> ModelFacts:
        """What planning needs to know; reads the tokenizer.

        Args:
            bos: as in a recipe; auto is the token that begins the model's documents.

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
        # The first two are names for the same thing.
        both = [self._number(key) for key in ("max_position_embeddings", "n_positions")]
        stated = [length for length in both if length is not None]
        return min(stated) if stated else self._number("max_seq_len", "n_ctx")

    @property
    def _changing(self) -> list[tuple[str, int | None]]:
        """Each changing rotary type, and the length beyond which it changes, if stated."""
        outer = [self._config.get(key) for key in ("rope_parameters", "rope_scaling")]
        # Models with several kinds of blocks have one entry per kind.
        ropes = [rope for rope in outer if isinstance(rope, dict)]
        ropes += [inner for rope in ropes for inner in rope.values() if isinstance(inner, dict)]
        model_type, found = self._config.get("model_type"), []
        for rope in ropes:
            kind = str(rope.get("rope_type", rope.get("type", "default")))
            if kind == "su" or (model_type in PHI and kind != "default"):
                kind = "longrope"
            for changing, length in CHANGING_ROPE.items():
                if changing in kind:
                    # Phi-3 uses the outer length, or its own if that is missing.
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
                    f"{CHANGING_ROPE[rope]}: the length beyond which rows affect each other is unknown"
                )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
