"""Lay out the weights of a plain network for any number of rows, and pack them for a particular batch."""

from __future__ import annotations

from collections.abc import Sequence

from steer_cli.networks.fastest import Fastest
from steer_cli.networks.products import Linear

# Packing for a number of rows takes as long as several steps save, and needs the weights' memory again.
FEWEST_STEPS = 30
MOST_BYTES = 1_000_000_000
# A packed batch is run whole while at most this many of its rows are free, in number and as a share.
MOST_FREE, FREE_SHARE = 16, 0.6


class Layout:
    """The linear products of one network on a CPU, each computed the fastest way for its number of rows."""

    def __init__(self, linears: Sequence[Linear], found: Fastest):
        self._linears, self._found = linears, found
        self._packed_for = 0  # rows
        may_pack = sum(linear.weight.nbytes for linear in linears) <= MOST_BYTES
        self._packs = found.packs if may_pack else ()
        for linear in linears:
            linear.lay_out({rows: step.way for rows, step in found.steps.items()}, keep=bool(self._packs))

    def rows_to_run(self, rows: int, most: int, steps: int) -> int:
        """How many rows to run for the fastest pass over `rows` rows; the extra ones mean nothing.

        Args:
            most: the most rows that the batch may have.
            steps: passes still to come.
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
        """The largest result of `rows_to_run` for a batch of at most `rows` rows."""
        return max(rows, self._pack_for(rows), *map(self._padded, range(1, rows + 1)))

    def _pack_for(self, most: int) -> int:
        return next((size for size in self._packs if size >= most), 0)

    def _padded(self, rows: int) -> int:
        """`rows`, with extra ones if that is faster."""
        size = next((size for size in self._found.steps if rows <= size), 0)
        wanted = self._found.steps[size].rows if size else rows
        return wanted if wanted > size else rows


def _enough(size: int) -> float:
    """The fewest rows for which weights packed for `size` rows are faster than unpacked ones."""
    return size - min(MOST_FREE, FREE_SHARE * size)
