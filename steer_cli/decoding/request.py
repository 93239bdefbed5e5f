"""A job on its way through the batch: which of its samples have begun, and the rows that have ended.

This module does not know how they are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from steer_cli.decoding.prefill import Started


@dataclass(frozen=True)
class Row:
    """One completion: token ids with the EOS that ended it, if one did."""

    ids: tuple[int, ...]
    finish: str  # eos or length


@dataclass
class Task:
    """A job on its way: samples not yet begun, rows not yet ended."""

    started: Started
    samples: int
    begun: int = 0
    rows: dict[tuple[int, int], Row] = field(default_factory=dict)  # (arm, sample) -> row

    @property
    def arms(self) -> int:
        return len(self.started.job.arms)

    def by_arm(self) -> tuple[tuple[Row, ...], ...] | None:
        """For each arm one row a sample; None while some have not ended."""
        if len(self.rows) < self.arms * self.samples:
            return None
        return tuple(
            tuple(self.rows[arm, sample] for sample in range(self.samples)) for arm in range(self.arms)
        )
