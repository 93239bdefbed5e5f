"""How likely the sentences of corpora are, steered against unsteered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from steer_cli.results.came_to import CameTo, with_coefficients
from steer_cli.results.json_values import Record, with_files


def figure_name(corpus: str, label: str | None) -> str:
    """What objectives, tables and plots call the figure of a corpus, or of one of its labels."""
    return corpus if label is None else f"{corpus}/{label}"


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of one label of a corpus; `ratio` is steered over unsteered, `stderr` that of the ratio.

    `stderr` is None for a single sentence. `tokens` counts the compared predictions, `left_out` the sentences
    that have none, because of `reason` or, if that is None, because they are too short.
    """

    corpus: str
    label: str | None
    method: str
    perplexity_unsteered: float
    perplexity_steered: float
    ratio: float
    stderr: float | None
    sentences: int
    tokens: int
    left_out: int = 0
    reason: str | None = None

    @property
    def name(self) -> str:
        return figure_name(self.corpus, self.label)

    def record(self) -> Record:
        """The figures; sentences left out are reported in notes instead."""
        record = asdict(self)
        del record["left_out"], record["reason"]
        return record


@dataclass(frozen=True)
class SentenceChange:
    """One sentence of a corpus; a change is None where a prediction was left out."""

    corpus: str
    label: str | None
    pieces: tuple[str, ...]
    changes: tuple[float | None, ...]  # log p(steered) - log p(unsteered) of each token, in nats


@dataclass(frozen=True)
class CorpusFindings:
    """Figures in the order of the corpora, and the change of each token by sentence if requested."""

    recipe: str
    model: str
    figures: tuple[Perplexity, ...]
    sentences: tuple[SentenceChange, ...] = ()
    files: Record = field(default_factory=dict)  # that the vectors come from, with their digests
    coefficients: tuple[CameTo, ...] = ()  # of relative ones, over the sentences that are measured

    def records(self) -> Iterator[Record]:
        """One record per corpus, label and method, then one per sentence."""
        head = with_files({"recipe": self.recipe, "model": self.model}, self.files)
        head = with_coefficients(head, self.coefficients)
        yield from (head | figure.record() for figure in self.figures)
        yield from (head | asdict(sentence) for sentence in self.sentences)
