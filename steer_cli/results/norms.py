"""How large the vector is relative to the stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from steer_cli.results.json_values import Record, finite


@dataclass(frozen=True)
class Norms:
    """Norms of one addition's unscaled vector and of the prompt's stream, at each position of its span."""

    recipe: str
    model: str
    prompt: str
    addition: int
    label: str
    layer: int
    start: int
    tokens: tuple[str, ...]
    vector: tuple[float, ...]
    stream: tuple[float, ...]
    ratio: tuple[float, ...]
    centred: bool

    def records(self) -> Iterator[Record]:
        """One record."""
        yield asdict(self) | {key: finite(getattr(self, key)) for key in ("vector", "stream", "ratio")}
