"""How large the vector is relative to the stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from steer_cli.recipe.chat import Chat
from steer_cli.results.came_to import CameTo
from steer_cli.results.json_values import Record, finite, with_chat, with_files


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
    chat: Chat | None = None  # of which `prompt` is the short form
    files: Record = field(default_factory=dict)  # that the vector comes from, with their digests
    came_to: CameTo | None = None  # at this layer, of a coefficient that is relative

    def records(self) -> Iterator[Record]:
        """One record."""
        figures = {key: finite(getattr(self, key)) for key in ("vector", "stream", "ratio")}
        values = asdict(self) | figures
        del values["came_to"]
        if self.came_to is not None:
            values |= {"relative": self.came_to.relative, "coefficient": self.came_to.coefficient}
        yield with_files(with_chat(values, self.chat), self.files)
