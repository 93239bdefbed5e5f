"""The alignment table as plain rows: which token of which text falls at which position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from steer_cli.planning.placement import Placement
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.chat import Chat, text_of
from steer_cli.recipe.position_words import Way


@dataclass(frozen=True)
class TableRow:
    """One text: the prompt (layer 0, coefficient 1), or a side of a pair.

    `start` is the position of the first token, `padding` the number of pads at the end. With `every`, `read`
    is the index of the one token whose stream is used, `start` the first position where it is added (the
    first new token's, if it acts on those alone), and `every` where that goes on.
    `text` is the side's text as the recipe has it, or a chat's short form.
    """

    addition: int | None  # index in the recipe
    layer: int | str
    coefficient: float
    role: str  # prompt, plus or minus
    start: int
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    padding: int = 0
    read: int | None = None
    text: str = ""
    every: Way | None = None
    ablates: bool = False

    @property
    def end(self) -> int:
        """One past the last position where the row shows a token."""
        return self.start + (len(self.tokens) if self.read is None else 1)

    def record(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "coefficient": self.coefficient,
            "role": self.role,
            "start": self.start,
            "tokens": list(self.tokens),
            "ids": list(self.ids),
            "padding": self.padding,
            "read": self.read,
            **({} if self.every in (None, "both") else {"every": self.every}),
            **({"operation": "ablate"} if self.ablates else {}),
        }


def table_record(recipe: str, model: str, prompt: str | Chat, rows: Iterable[TableRow]) -> dict[str, Any]:
    """The alignment table of one prompt as a record."""
    chat = prompt.record() if isinstance(prompt, Chat) else {}
    head = {"recipe": recipe, "model": model, "prompt": text_of(prompt), **chat}
    return {**head, "rows": [row.record() for row in rows]}


def table_rows(
    tokenizer: Tokenizer, prompt: Sequence[int], placements: Sequence[Placement]
) -> list[TableRow]:
    """The prompt's row, then one row per text, addition and layer."""
    rows = [TableRow(None, 0, 1.0, "prompt", 0, _pieces(tokenizer, prompt), tuple(prompt))]
    for placement in placements:
        alignment = placement.alignment
        addition = alignment.addition
        share = addition.coefficient / (len(alignment.pairs) if addition.combine == "mean" else 1)
        for texts, pair in zip(addition.all_pairs, alignment.pairs, strict=True):
            plus, minus = texts.names
            sides = (("plus", 1, plus, pair.plus), ("minus", -1, minus, pair.minus))
            for role, sign, text, row in sides:
                if row is None or (placement.every and not row.ids):
                    continue
                first = placement.first_row
                ids = row.ids if placement.every else row.ids[first : first + placement.end - placement.start]
                cut = len(row.ids) - first - len(ids)
                rows.append(
                    TableRow(
                        addition=alignment.index,
                        layer=alignment.layer,
                        coefficient=sign * share or 0.0,
                        role=role,
                        start=placement.start,
                        tokens=_pieces(tokenizer, ids),
                        ids=ids,
                        padding=min(len(ids), max(0, row.pads - max(0, cut))),
                        read=len(ids) - 1 if placement.every else None,
                        text=text or "",
                        every=placement.every,
                        ablates=placement.ablates,
                    )
                )
    return rows


def _pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(tokenizer.piece(id) for id in ids)
