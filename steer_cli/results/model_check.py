"""What `steer models check` found about a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from steer_cli.results.json_values import Record


@dataclass(frozen=True)
class ModelCheck:
    """A model that was loaded and passed its self-test.

    `way` is plain or transformers, `network` the class that computes the model, `reason` why it is not plain.
    `context` is the longest row in tokens; None if no limit is stated.
    """

    model: str
    way: str
    network: str
    reason: str | None
    blocks: int
    width: int
    context: int | None
    dtype: str
    device: str

    def records(self) -> Iterator[Record]:
        """One record."""
        yield asdict(self) | {"self_test": "passed"}
