"""The alignment table as plain rows: which token of which text falls at which position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import PurePath
from typing import Any

from steer_cli.planning.alignment import Alignment
from steer_cli.planning.pairs import TokenRow
from steer_cli.planning.placement import Placement
from steer_cli.planning.stored_vector import StoredVector
from steer_cli.planning.text_lists import NamedFile
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.chat import Chat, text_of
from steer_cli.recipe.position_words import Way


@dataclass(frozen=True)
class TableRow:
    """One text: the prompt (layer 0, coefficient 1), or a side of a pair or list; or a stored vector.

    A `relative` coefficient is in lengths of the stream: what it comes to is not known before a model runs.

    `start` is the position of the first token, `padding` the number of pads at the end. With `every`, `read`
    is the index of the one token whose stream is used, `start` the first position where it is added (the
    first new token's, if it acts on those alone), and `every` where that goes on; where the mean of several
    is used, they are those from `mean_from` to `read`. `text` is the side's text as the recipe has it, or a
    chat's short form. A stored vector has its file's name as tokens; `file` and `sha256` are those of the
    file that a text or vector comes from. `special` has the indices of special tokens.
    """

    addition: int | None  # index in the recipe
    layer: int | str
    coefficient: float
    role: str  # prompt, plus, minus or vector
    start: int
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    padding: int = 0
    read: int | None = None
    text: str = ""
    every: Way | None = None
    ablates: bool = False
    mean_from: int | None = None
    file: str | None = None
    sha256: str | None = None
    special: tuple[int, ...] = ()
    relative: bool = False

    @property
    def end(self) -> int:
        """One past the last position where the row shows a token."""
        return self.start + (len(self.tokens) if self.read is None else 1)

    def record(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "coefficient": {"relative": self.coefficient} if self.relative else self.coefficient,
            "role": self.role,
            "start": self.start,
            "tokens": list(self.tokens),
            "ids": list(self.ids),
            "padding": self.padding,
            "read": self.read,
            "mean_from": self.mean_from,
            "file": self.file,
            "sha256": self.sha256,
            "special": list(self.special),
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
    pieces, special = _pieces(tokenizer, prompt), tokenizer.special(prompt)
    rows = [TableRow(None, 0, 1.0, "prompt", 0, pieces, tuple(prompt), special=special)]
    for placement in placements:
        stored = placement.alignment.stored
        if stored is not None:
            rows.append(_stored_row(placement, stored))
            continue
        for role, coefficient, row, file in _sides(placement.alignment):
            if not (placement.every and not row.ids):
                rows.append(_text_row(tokenizer, placement, role, coefficient, row, file))
    return rows


def _sides(alignment: Alignment) -> Iterator[tuple[str, float, TokenRow, NamedFile | None]]:
    """Each text with its role, the coefficient of its stream, and its file; plus and minus in turns."""
    addition, lists = alignment.addition, alignment.lists
    coefficient = addition.strength
    if lists is not None:
        for plus, minus in zip_longest(lists.plus, lists.minus):
            if plus is not None:
                yield "plus", coefficient / len(lists.plus), plus, lists.plus_file
            if minus is not None:
                yield "minus", -coefficient / len(lists.minus), minus, lists.minus_file
        return
    # A principal component is no sum of the texts, so that they have no shares of it.
    share = coefficient / (len(alignment.pairs) if addition.combine == "mean" else 1)
    for pair in alignment.pairs:
        yield "plus", share, pair.plus, None
        if pair.minus is not None:
            yield "minus", -share, pair.minus, None


def _text_row(
    tokenizer: Tokenizer,
    placement: Placement,
    role: str,
    coefficient: float,
    row: TokenRow,
    file: NamedFile | None,
) -> TableRow:
    first = placement.first_row
    ids = row.ids if placement.every else row.ids[first : first + placement.end - placement.start]
    cut = len(row.ids) - first - len(ids)
    averaged = row.read is not None and row.read[1] - row.read[0] > 1
    return TableRow(
        addition=placement.alignment.index,
        layer=placement.alignment.layer,
        coefficient=coefficient or 0.0,
        role=role,
        start=placement.start,
        tokens=_pieces(tokenizer, ids),
        ids=ids,
        padding=min(len(ids), max(0, row.pads - max(0, cut))),
        read=len(ids) - 1 if placement.every else None,
        text=row.text,
        every=placement.every,
        ablates=placement.ablates,
        mean_from=row.read[0] if row.read is not None and averaged else None,
        file=None if file is None else file.name,
        sha256=None if file is None else file.sha256,
        special=tokenizer.special(ids),
        relative=placement.relative is not None,
    )


def _stored_row(placement: Placement, stored: StoredVector) -> TableRow:
    name, rows = PurePath(stored.name).name, range(placement.end - placement.start)
    return TableRow(
        addition=placement.alignment.index,
        layer=placement.alignment.layer,
        coefficient=placement.alignment.addition.strength or 0.0,
        role="vector",
        start=placement.start,
        tokens=(name,)
        if placement.every
        else tuple(f"{name}[{placement.first_row + index}]" for index in rows),
        ids=(),
        read=0 if placement.every else None,
        text=name,
        every=placement.every,
        ablates=placement.ablates,
        file=stored.name,
        sha256=stored.sha256,
        relative=placement.relative is not None,
    )


def _pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(tokenizer.piece(id) for id in ids)
