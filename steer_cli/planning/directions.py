"""What an addition's vector is made of: pairs, two lists of texts, or a stored vector."""

from __future__ import annotations

from dataclasses import dataclass

from steer_cli.errors import PlanError
from steer_cli.planning.pairs import AlignedPair, TokenRow, align, one_row, pad_id
from steer_cli.planning.stored_vector import StoredVector, check_position, open_vector
from steer_cli.planning.text_lists import TextLists, read_lists, token_lists
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.quoting import show
from steer_cli.recipe.schema import Addition, Pair, Recipe


@dataclass(frozen=True)
class Direction:
    """One of the three; the others are empty or None."""

    pairs: tuple[AlignedPair, ...] = ()
    lists: TextLists | None = None
    stored: StoredVector | None = None

    @property
    def rows(self) -> tuple[TokenRow, ...]:
        """All of its texts."""
        if self.lists:
            return self.lists.rows
        sides = (side for pair in self.pairs for side in (pair.plus, pair.minus))
        return tuple(side for side in sides if side is not None)


def direction_of(recipe: Recipe, index: int, tokenizer: Tokenizer, of_texts: str) -> Direction:
    """The direction of an addition, tokenised or read from its file.

    Args:
        of_texts: what errors call the place of the texts.

    Raises:
        PlanError: it does nothing, or a file cannot be read.
        TokenError: a pad is not a single token.
    """
    addition, where = recipe.additions[index], f"{recipe.label}: additions.{index}"
    if addition.vector is not None:
        stored = open_vector(recipe, addition, where)
        check_position(stored, addition, where)
        return Direction(stored=stored)
    if addition.texts is not None:
        lists = token_lists(recipe, addition.texts, tokenizer, addition.read, where)
        direction = Direction(lists=lists)
        same = sorted(row.ids for row in lists.plus) == sorted(row.ids for row in lists.minus)
    else:
        # One row is read at the text's own tokens, so the text must not be padded.
        pad = None if addition.every else pad_id(tokenizer, addition.pad, where)
        pairs = tuple(_pair(pair, addition, tokenizer, pad) for pair in addition.all_pairs)
        direction = Direction(pairs=pairs)
        same = all(pair.minus is not None and pair.plus.ids == pair.minus.ids for pair in pairs)
    if not any(row.ids for row in direction.rows):
        raise PlanError(f"{of_texts}: no tokens at all; write a text, or leave `bos` at auto")
    if addition.texts is not None or addition.read is not None:
        _check_read(direction, of_texts)
    if same and not addition.adds_nothing:
        remedy = "change one of the lists" if direction.lists else "change one of them"
        raise PlanError(f"{of_texts}: does nothing: plus and minus have the same tokens; {remedy}")
    return direction


def _pair(pair: Pair, addition: Addition, tokenizer: Tokenizer, pad: int | None) -> AlignedPair:
    if not addition.every:
        return align(tokenizer, pair.plus, pair.minus, pad)
    read, names = addition.read or "last", pair.names
    minus = None if pair.minus is None else one_row(tokenizer, pair.minus, read, names[1] or "")
    return AlignedPair(one_row(tokenizer, pair.plus, read, names[0]), minus)


def _check_read(direction: Direction, where: str) -> None:
    """Raise PlanError if a text has no token that could be read."""
    for row in direction.rows:
        if row.read is not None and row.read[0] >= row.read[1]:
            ways = "write a text" if row.ids else "write a text, or leave `bos` at auto"
            raise PlanError(f"{where}: the text {show(row.text)} has no token to read; {ways}")


def texts_of(recipe: Recipe) -> frozenset[str]:
    """All texts that a recipe's vectors are made of, without the space around them; chats are not among them.

    Raises:
        PlanError: a file of texts cannot be read.
    """
    found: set[str] = set()
    for index, addition in enumerate(recipe.additions):
        if addition.texts is not None:
            lists = read_lists(recipe, addition.texts, f"{recipe.label}: additions.{index}")
            found.update(text for texts, _ in lists.values() for text in texts)
        for pair in addition.all_pairs:
            found.update(side for side in (pair.plus, pair.minus) if isinstance(side, str))
    return frozenset(map(str.strip, found))


def check_files(recipe: Recipe) -> None:
    """Read all files that a recipe names, as far as that needs no model.

    Raises:
        PlanError: one cannot be read, or does not hold what the recipe asks of it.
    """
    for index, addition in enumerate(recipe.additions):
        where = f"{recipe.label}: additions.{index}"
        if addition.texts is not None:
            read_lists(recipe, addition.texts, where)
        if addition.vector is not None:
            check_position(open_vector(recipe, addition, where), addition, where)
