"""A figure with its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from steer_cli.results.json_values import Record


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval [low, high], over so many sentences, items or draws."""

    value: float
    low: float
    high: float
    count: int

    def record(self) -> Record:
        return asdict(self)

    @property
    def above_zero(self) -> bool:
        return self.low > 0

    @property
    def below_zero(self) -> bool:
        return self.high < 0
