"""What `steer export` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from steer_cli.results.json_values import Record, with_files


@dataclass(frozen=True)
class Exported:
    """A file of vectors that a recipe was written to.

    `layers` are steer's. `revision` is the commit of a model from the hub. `approximations` say where the
    file does not do what the recipe does.
    """

    recipe: str
    recipe_sha256: str
    file: str
    format: str  # gguf or safetensors
    sha256: str  # of the file
    additions: tuple[int, ...]  # of the recipe, which a control vector sums
    layers: tuple[int, ...]
    width: int
    model: str
    revision: str | None
    dtype: str  # that the model computed in; the file holds float32
    version: str  # of steer
    approximations: tuple[str, ...] = ()
    files: Record = field(default_factory=dict)  # that the vectors come from, with their digests

    def records(self) -> Iterator[Record]:
        """One record."""
        yield with_files(asdict(self), self.files)
