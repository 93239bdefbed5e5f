"""How the next-token distribution after a prompt moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from steer_cli.recipe.chat import Chat
from steer_cli.results.came_to import CameTo, with_coefficients
from steer_cli.results.json_values import Record, with_chat, with_files


@dataclass(frozen=True)
class TokenShift:
    """One next token: probabilities, their ratio, and its signed part p ln(p/q) of the KL in nats."""

    token: str
    id: int
    p_unsteered: float
    p_steered: float
    ratio: float
    kl: float


@dataclass(frozen=True)
class Shift:
    """The next-token distributions at a position of a prompt; KL(steered || unsteered), entropies in nats.

    `effect` and `damage` are None unless wanted words were given.
    """

    recipe: str
    model: str
    prompt: str
    pieces: tuple[str, ...]  # of the prompt, up to the position
    position: int
    kl: float
    entropy_unsteered: float
    entropy_steered: float
    effect: float | None
    damage: float | None
    tokens: tuple[TokenShift, ...]  # the union of both top k, most likely when steered first
    chat: Chat | None = None  # of which `prompt` is the short form
    files: Record = field(default_factory=dict)  # that the vectors come from, with their digests
    coefficients: tuple[CameTo, ...] = ()  # of relative ones

    def records(self) -> Iterator[Record]:
        """One record."""
        record = _without_unasked(asdict(self))
        del record["pieces"]
        yield with_files(with_coefficients(with_chat(record, self.chat), self.coefficients), self.files)


@dataclass(frozen=True)
class PromptShift:
    """The figures of `Shift` after the whole prompt, as a sweep's point keeps them for each prompt."""

    prompt: str
    kl: float
    entropy_unsteered: float
    entropy_steered: float
    effect: float | None = None
    damage: float | None = None
    coefficients: tuple[CameTo, ...] = ()  # of relative ones

    def record(self) -> Record:
        return with_coefficients(_without_unasked(asdict(self)), self.coefficients)


def _without_unasked(record: Record) -> Record:
    return {
        key: value for key, value in record.items() if key not in ("effect", "damage") or value is not None
    }
