"""One prompt at many layers and coefficients of a recipe's first addition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from steer_cli.recipe.chat import Chat
from steer_cli.recipe.relative import Relative, written
from steer_cli.recipe.schema import Recipe
from steer_cli.results.came_to import CameTo, with_coefficients
from steer_cli.results.comparison import Completion
from steer_cli.results.cost import Cost, steering_cost
from steer_cli.results.json_values import Record, with_chat
from steer_cli.results.means import standard_error


@dataclass(frozen=True)
class ScanPoint:
    """The completions of one prompt at one setting, and those of the unsteered model.

    Sample i uses the same random numbers at every point. `layer` has several blocks where the
    addition does. The unsteered point has none, and no `coefficient`, but 0 where that was asked for.
    A point that could not be run has no completions, and the reason as `error`.
    """

    recipe: Recipe
    model: str
    prompt: str
    layer: int | tuple[int, ...] | None
    coefficient: float | Relative | None
    unsteered: tuple[Completion, ...]
    completions: tuple[Completion, ...]
    error: str | None = None
    chat: Chat | None = None  # of which `prompt` is the short form
    coefficients: tuple[CameTo, ...] = ()  # of relative ones

    @property
    def arm(self) -> str:
        """unsteered or steered."""
        return "unsteered" if self.layer is None else "steered"

    @property
    def cost(self) -> Cost | None:
        """What steering costs here; None at the unsteered point, and where nothing could be run."""
        if self.layer is None or self.error is not None:
            return None
        return steering_cost([_logprobs(self.unsteered)], [_logprobs(self.completions)])

    @property
    def counts(self) -> dict[str, tuple[float, float | None]]:
        """For each label the mean uses of its words per completion, and the standard error."""
        if self.error is not None:
            return {}
        uses = {
            label: [float(completion.counts[label]) for completion in self.completions]
            for label in self.recipe.count
        }
        return {label: (fmean(values), standard_error(values)) for label, values in uses.items()}

    def records(self) -> Iterator[Record]:
        """One record per sample; one without a sample for a point that could not be run."""
        values: Record = {
            "recipe": self.recipe.name,
            "recipe_sha256": self.recipe.sha256,
            "model": self.model,
            "prompt": self.prompt,
            "seed": self.recipe.sampling.seed,
            "arm": self.arm,
            "layer": list(self.layer) if isinstance(self.layer, tuple) else self.layer,
            "coefficient": written(self.coefficient),
        }
        head = with_coefficients(with_chat(values, self.chat), self.coefficients)
        if self.error is not None:
            nothing = dict.fromkeys(("text", "tokens", "finish", "mean_logprob", "counts", "cost"))
            yield head | {"sample": None} | nothing | {"error": self.error}
        samples = zip(self.completions, _logprobs(self.unsteered), strict=False)
        for sample, (completion, unsteered) in enumerate(samples):
            [logprob] = _logprobs((completion,))
            # Subtracted from 0.0, so that nothing costs 0.0 and not -0.0.
            cost = {"cost": 0.0 - (logprob - unsteered), "error": None}
            yield head | {"sample": sample} | completion.record() | cost


@dataclass(frozen=True)
class Scan:
    """The strip of one prompt: its points in the order in which they are shown."""

    prompt: str
    points: tuple[ScanPoint, ...]

    def records(self) -> Iterator[Record]:
        """One record per point and sample."""
        for point in self.points:
            yield from point.records()


def _logprobs(completions: tuple[Completion, ...]) -> list[float]:
    # Every completion of a scan is scored.
    return [completion.mean_logprob for completion in completions if completion.mean_logprob is not None]
