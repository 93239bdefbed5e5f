"""What `steer bake` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from steer_cli.results.json_values import Record, with_files


@dataclass(frozen=True)
class Baked:
    """A checkpoint that is steered by itself.

    `places` are the tensors that hold the constants, by layer. `difference` is the largest difference of its
    logits from the steered ones on a probe, as a share of their spread, and `rounding` the largest share of
    a constant's length that the type of its tensor loses. `revision` is the commit of a model from the hub.
    """

    recipe: str
    recipe_sha256: str
    folder: str
    places: dict[int, str]
    network: str  # model_type in the new config.json
    model: str
    revision: str | None
    dtype: str  # of the written weights; auto is that of the source
    difference: float
    rounding: float
    bos: str
    version: str  # of steer
    files: Record = field(default_factory=dict)  # that the vectors come from, with their digests

    def records(self) -> Iterator[Record]:
        """One record."""
        places = {str(layer): name for layer, name in self.places.items()}
        yield with_files(asdict(self) | {"places": places}, self.files)
