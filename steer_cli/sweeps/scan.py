"""A scan from end to end: ranges as text -> the completions at every point, one prompt after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steer_cli.errors import SweepError
from steer_cli.events import Progress, silent
from steer_cli.planning.plan import ModelFacts
from steer_cli.planning.scan import ScanPlan, plan_scan
from steer_cli.recipe.chat import Chat
from steer_cli.recipe.load import checked
from steer_cli.recipe.relative import Relative
from steer_cli.recipe.schema import Recipe
from steer_cli.results import Scan, ScanPoint
from steer_cli.sweeps.ranges import parse_coefficients, parse_layers, parse_relative

if TYPE_CHECKING:
    from steer_cli.models.load import Model


def scan(
    model: Model,
    recipe: Recipe,
    coefficients: str | None = None,
    layers: str | None = None,
    prompts: Sequence[str | Chat | Mapping[str, Any]] = (),
    samples: int | None = None,
    seed: int | None = None,
    progress: Progress = silent,
) -> tuple[Scan, ...]:
    """Completions of every prompt at many coefficients and layers of the recipe's first addition.

    Other additions stay as they are. The unsteered completions are always among the points. A setting that
    cannot be run is a point with an `error`.

    Args:
        coefficients, layers: ranges as `sweep` takes them, such as -2:4:1; None keeps the recipe's own. Where
            the addition's coefficient is relative to the stream, those of the range are too.
        prompts, samples, seed: instead of the recipe's.

    Raises:
        SteerError: the recipe or a range does not fit, there are too many settings, or none can be run.
    """
    recipe = checked(recipe).with_prompts(list(prompts)).with_sampling(samples=samples, seed=seed)
    plan = plan_ranges(recipe, model.facts(recipe.bos), coefficients, layers)
    points, rows = list(points_of(model, plan, progress=progress)), len(plan.settings)
    return tuple(
        Scan(prompt.text, tuple(points[index * rows :][:rows])) for index, prompt in enumerate(plan.prompts)
    )


def plan_ranges(recipe: Recipe, facts: ModelFacts, coefficients: str | None, layers: str | None) -> ScanPlan:
    """Read the ranges, and place the recipe at every setting; needs no torch.

    Raises:
        SteerError: see `scan`.
    """
    if coefficients is None and layers is None:
        raise SweepError("coefficients: nothing to scan; write a range such as -2:4:1", "coefficients")
    blocks = (None,) if layers is None else parse_layers(layers, facts.blocks)
    if coefficients is not None and isinstance(recipe.additions[0].coefficient, Relative):
        return plan_scan(recipe, facts, parse_relative(coefficients, "coefficients"), blocks)
    return plan_scan(recipe, facts, parse_coefficients(coefficients), blocks)


def points_of(
    model: Model, plan: ScanPlan, batch_rows: int | None = None, progress: Progress = silent
) -> Iterator[ScanPoint]:
    """The points of a plan as soon as they are known.

    Args:
        batch_rows: rows that decode together; None fits them to a memory budget.

    Raises:
        VectorError: no point can be run.
    """
    from steer_cli.measure.scan import scan

    yield from scan(model.network, plan, batch_rows, progress)
