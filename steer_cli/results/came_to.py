"""The numbers that relative coefficients came to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from steer_cli.planning.placement import Placement
from steer_cli.results.json_values import Record


@dataclass(frozen=True)
class CameTo:
    """What the relative coefficient of an addition came to at one layer.

    `coefficient` is the number on one prompt, or the mean over many texts, with the `least` and the `most`.
    """

    addition: int
    layer: int
    relative: float
    coefficient: float
    least: float | None = None
    most: float | None = None

    def record(self) -> Record:
        return {key: value for key, value in asdict(self).items() if value is not None}


def came_to(placements: Iterable[Placement]) -> tuple[CameTo, ...]:
    """The numbers on one text, in the order of the placements; plain coefficients are left out."""
    return tuple(
        CameTo(placement.alignment.index, placement.layer, placement.relative, placement.coefficient)
        for placement in placements
        if placement.relative is not None
    )


def over_texts(found: Sequence[tuple[CameTo, ...]]) -> tuple[CameTo, ...]:
    """The mean, least and most of each number over many texts of one recipe."""
    ranges = []
    for same in zip(*found, strict=True):
        numbers = [one.coefficient for one in same]
        first = same[0]
        least, most = min(numbers), max(numbers)
        ranges.append(CameTo(first.addition, first.layer, first.relative, fmean(numbers), least, most))
    return tuple(ranges)


def with_coefficients(record: Record, found: Sequence[CameTo]) -> Record:
    """The record with what relative coefficients came to, if there are any."""
    kept = {key: value for key, value in record.items() if key != "coefficients"}
    return kept | {"coefficients": [one.record() for one in found]} if found else kept
