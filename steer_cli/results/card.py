"""One card for a recipe: what it does, what it costs, and what chance and plain prompting do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal

from steer_cli.results.estimate import Estimate
from steer_cli.results.json_values import Record
from steer_cli.results.verdict import Verdict, sentence

Kind = Literal["sentences", "choices", "count"]


@dataclass(frozen=True)
class Neutral:
    """What an arm does to neutral text: the loss of log probability per token, and how much changes.

    `kl` is the mean of KL(arm || unsteered) per token, `kl_95` its 95th percentile; all in nats.
    """

    damage: Estimate
    kl: Estimate
    kl_95: float

    def record(self) -> Record:
        return asdict(self)


@dataclass(frozen=True)
class ScoredArm:
    """The effects of one arm by kind of evidence, and what it does to neutral text.

    `beyond`: by how much the steered arm's effect exceeds this arm's, paired.
    """

    name: str  # steered, random, prompt
    effects: dict[str, Estimate]
    beyond: dict[str, Estimate] = field(default_factory=dict)
    neutral: Neutral | None = None
    seed: int | None = None  # of a random vector
    text: str | None = None  # of a prompt: what stands in front

    def record(self) -> Record:
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Answers:
    """The choices in detail: mean log-odds by multiple of the coefficient, and how many items fall."""

    log_odds: tuple[tuple[float, Estimate], ...]
    falling: Estimate  # share of items with a negative slope


@dataclass(frozen=True)
class Fluency:
    """Completions of both arms: mean log probability per token under the unsteered model, and repetition.

    `cost` is how much less likely the steered ones are, `repeated_more` by how much the share of repeated
    runs of three tokens grows; both paired. `over` says what the draws are: prompts or samples.
    """

    logprob: tuple[Estimate, Estimate]  # unsteered, steered
    cost: Estimate
    repeated: tuple[Estimate, Estimate]
    repeated_more: Estimate
    over: str


@dataclass(frozen=True)
class CurvePoint:
    """The effect and damage of a multiple of the coefficient."""

    multiplier: float
    effects: dict[str, Estimate]
    damage: Estimate | None


@dataclass(frozen=True)
class Source:
    """A set of the evidence: how many sentences or items it has, and the SHA-256 of their content."""

    name: str
    count: int
    measured: int
    sha256: str


@dataclass(frozen=True)
class Card:
    """All figures of one recipe on one model, with the verdicts that they allow, one by kind of evidence."""

    recipe: str
    recipe_sha256: str
    model: str
    revision: str
    dtype: str
    version: str
    method: str  # pad or overlay: how sentences make room for the vector
    arms: tuple[ScoredArm, ...]  # the steered one first
    verdicts: dict[str, Verdict]
    gains: dict[str, Estimate] = field(default_factory=dict)  # set -> what its sentences gain per token
    answers: Answers | None = None
    fluency: Fluency | None = None
    curve: tuple[CurvePoint, ...] = ()
    sources: tuple[Source, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)  # what was not measured -> why
    files: Record = field(default_factory=dict)  # that the vectors come from, with their digests

    @property
    def steered(self) -> ScoredArm:
        return self.arms[0]

    @property
    def damage(self) -> Estimate | None:
        """What neutral text loses, in nats per token."""
        return None if self.steered.neutral is None else self.steered.neutral.damage

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdicts in words; the last one says what steering costs."""
        last = [*self.verdicts][-1]
        return tuple(
            sentence(kind, verdict, self.steered.effects[kind], self.damage if kind == last else None)
            for kind, verdict in self.verdicts.items()
        )

    def exceeds(self, budget: float) -> bool:
        """Whether neutral text loses more nats per token than a budget of damage allows."""
        return self.damage is not None and self.damage.value > budget

    def records(self) -> Iterator[Record]:
        """One record, complete by itself."""
        record = asdict(self)
        del record["arms"]
        record |= {"arms": [arm.record() for arm in self.arms], "says": list(self.sentences)}
        if not self.files:
            del record["files"]
        yield record
