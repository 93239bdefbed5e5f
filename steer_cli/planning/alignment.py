"""An addition at one layer, as tokens or stored numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from steer_cli.planning.pairs import AlignedPair, TokenRow
from steer_cli.planning.stored_vector import StoredVector
from steer_cli.planning.text_lists import NamedFile, TextLists
from steer_cli.recipe.quoting import show
from steer_cli.recipe.schema import Addition


@dataclass(frozen=True)
class Alignment:
    """One addition at one layer: what its vector is made of, and where that is read and added.

    It has pairs, two lists of texts, or a stored vector.
    """

    index: int  # of the addition in the recipe
    addition: Addition
    pairs: tuple[AlignedPair, ...]
    layer: int | str  # a share of the depth stays text until the depth is known
    source_layer: int | str
    turn: int = 0  # index in the addition's list of layers
    lists: TextLists | None = None
    stored: StoredVector | None = None

    @property
    def length(self) -> int:
        """Length of the longest text, BOS included; also that of the vector, except with `every`."""
        return self.stored.positions if self.stored else max(len(row.ids) for row in self.rows)

    @property
    def plus_rows(self) -> tuple[TokenRow, ...]:
        """The texts of plus."""
        return self.lists.plus if self.lists else tuple(pair.plus for pair in self.pairs)

    @property
    def minus_rows(self) -> tuple[TokenRow, ...]:
        """The texts of minus."""
        if self.lists:
            return self.lists.minus
        return tuple(pair.minus for pair in self.pairs if pair.minus is not None)

    @property
    def backwards(self) -> bool:
        """Whether it steers towards the minus texts, as its coefficient is negative."""
        return self.addition.strength < 0

    @property
    def rows_towards(self) -> tuple[TokenRow, ...]:
        """The texts that it steers towards."""
        return self.minus_rows if self.backwards else self.plus_rows

    @property
    def rows(self) -> tuple[TokenRow, ...]:
        """All texts; none where the vector is stored."""
        return self.plus_rows + self.minus_rows

    @property
    def files(self) -> dict[str, dict[str, str]]:
        """The files that the vector comes from, by the keys that name them, for records."""
        named: dict[str, NamedFile | StoredVector | None] = {"vector": self.stored}
        if self.lists:
            named = {"texts.plus": self.lists.plus_file, "texts.minus": self.lists.minus_file}
        return {key: {"file": file.name, "sha256": file.sha256} for key, file in named.items() if file}

    @property
    def block(self) -> int:
        """The layer as a block number; the depth must be known."""
        assert isinstance(self.layer, int)
        return self.layer

    @property
    def source_block(self) -> int:
        """The layer at which the vector is read; the depth must be known."""
        assert isinstance(self.source_layer, int)
        return self.source_layer

    @property
    def label(self) -> str:
        """A short form of the texts, or the file of a stored vector, for errors and titles."""
        if self.stored:
            return self.stored.name
        if self.lists:
            return f"{_first_of(self.lists.plus)} - {_first_of(self.lists.minus)}"
        first = self.pairs[0]
        minus = "" if first.minus is None else f" - {show(first.minus.text)}"
        more = _more(len(self.pairs), "pair")
        return f"{show(first.plus.text)}{minus}{more}"


def files_of(alignments: Iterable[Alignment]) -> dict[str, dict[str, str]]:
    """The files of all additions, by the paths of the keys that name them."""
    return {
        f"additions.{alignment.index}.{key}": file
        for alignment in alignments
        for key, file in alignment.files.items()
    }


def _first_of(rows: tuple[TokenRow, ...]) -> str:
    return show(rows[0].text) + _more(len(rows), "text")


def _more(count: int, what: str) -> str:
    """How many follow the first."""
    return "" if count == 1 else f" and {count - 1} more {what}{'s' if count > 2 else ''}"
