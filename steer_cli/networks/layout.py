"""How the weights of a plain network lie in memory: for any number of rows, and for a coming batch."""

from __future__ import annotations

from collections.abc import Sequence

from steer_cli.networks.fastest import Fastest
from steer_cli.networks.products import Linear

# A packing for a number of rows takes as long as some steps gain, and holds the weights once more.
FEWEST_STEPS = 30
MOST_BYTES = 1_000_000_000
# While not more of its rows than these are free, in number and as a share, a packed batch is run whole.
MOST_FREE, FREE_SHARE = 16, 0.6


class Layout:
    """The products of one network on a CPU, each made in the fastest way for its number of rows."""

    def __init__(self, linears: Sequence[Linear], found: Fastest):
        self._linears, self._found = linears, found
        self._packed_for = 0  # rows
        may_pack = sum(linear.weight.nbytes for linear in linears) <= MOST_BYTES
        self._packs = found.packs if may_pack else ()
        for linear in linears:
            linear.lay_out({rows: step.way for rows, step in found.steps.items()}, keep=bool(self._packs))

    def rows_to_run(self, rows: int, most: int, steps: int) -> int:
        """How many rows a pass of `rows` rows is best run with; those beyond them mean nothing.

        Args:
            most: rows that the batch may come to have.
            steps: passes that are still to come.
        """
        wanted = self._pack_for(most)
        if steps >= FEWEST_STEPS and wanted > self._packed_for and rows >= _enough(wanted):
            for linear in self._linears:
                linear.pack_for(wanted)
            self._packed_for = wanted
        if rows <= self._packed_for and rows >= _enough(self._packed_for):
            return self._packed_for
        return max(rows, self._padded(rows))

    def slots_for(self, rows: int) -> int:
        """The most that `rows_to_run` says for a batch of at most `rows` rows."""
        return max(rows, self._pack_for(rows), *map(self._padded, range(1, rows + 1)))

    def _pack_for(self, most: int) -> int:
        return next((size for size in self._packs if size >= most), 0)

    def _padded(self, rows: int) -> int:
        """With rows added where so few are slower than more."""
        size = next((size for size in self._found.steps if rows <= size), 0)
        wanted = self._found.steps[size].rows if size else rows
        return wanted if wanted > size else rows


def _enough(size: int) -> float:
    """Of the rows that weights are packed for, how many have to run for the packed ones to be faster."""
    return size - min(MOST_FREE, FREE_SHARE * size)
