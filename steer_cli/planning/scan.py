"""One recipe at many settings of its first addition: at each a layer and a coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer_cli.errors import PlanError
from steer_cli.planning.plan import ModelFacts, Plan, PlannedPrompt, plan_recipe
from steer_cli.recipe.relative import Relative
from steer_cli.recipe.schema import Recipe

MOST_SETTINGS = 256  # rows that a person might still read


@dataclass(frozen=True)
class Setting:
    """Where and how strongly the first addition acts, and the plan of the recipe with these values.

    The unsteered setting has neither layer nor plan. Its coefficient is 0 where that was asked for.
    """

    layer: int | tuple[int, ...] | None
    coefficient: float | Relative | None
    plan: Plan | None


@dataclass(frozen=True)
class ScanPlan:
    """The settings in the order in which they are shown; exactly one of them is unsteered.

    `varying` names those of layer and coefficient that have more than one value.
    """

    recipe: Recipe
    facts: ModelFacts
    settings: tuple[Setting, ...]
    varying: tuple[str, ...]

    @property
    def acting(self) -> list[Plan]:
        """The plans of all settings but the unsteered one."""
        return [setting.plan for setting in self.settings if setting.plan is not None]

    @property
    def relative(self) -> bool:
        """Whether the coefficients are relative to the stream."""
        return any(isinstance(setting.coefficient, Relative) for setting in self.settings)

    @property
    def prompts(self) -> tuple[PlannedPrompt, ...]:
        """The same at every setting, but for where the additions act on them."""
        return self.acting[0].prompts


def plan_scan(
    recipe: Recipe,
    facts: ModelFacts,
    coefficients: Sequence[float | Relative | None] = (None,),
    layers: Sequence[int | None] = (None,),
) -> ScanPlan:
    """Place the recipe at every setting; None keeps its own value. All other additions stay as they are.

    A setting at which no addition has a coefficient is the unsteered one. It stands where its coefficient
    does, or first where that is not in the range or the layers vary, to which it does not belong.

    Raises:
        RecipeError: the recipe has no prompt.
        PlanError: too many settings, none that adds anything, or one that does not fit the model or a prompt.
        TokenError: a text that the tokenizer cannot give.
    """
    rows = len(coefficients) * len(layers)
    if rows > MOST_SETTINGS:
        name = "coefficients" if len(coefficients) > 1 else "layers"
        raise PlanError(
            f"{name}: {rows} rows, more than the {MOST_SETTINGS} that a strip may have; take fewer, or "
            "measure them with `steer sweep`",
            parameter=name,
        )
    settings: list[Setting] = []
    unsteered = Setting(None, None, None)
    for layer in layers:
        for coefficient in coefficients:
            moved = _moved(recipe, layer, coefficient)
            if any(addition.strength for addition in moved.additions):
                settings.append(_setting(moved, facts))
                continue
            unsteered = Setting(None, 0.0, None)
            if len(layers) == 1:
                settings.append(unsteered)
    if not any(setting.plan for setting in settings):
        raise PlanError(
            f"{recipe.label}: every row would be the unsteered one; scan coefficients other than 0"
        )
    if all(setting.plan is not None for setting in settings):
        settings.insert(0, unsteered)
    axes = {"layer": layers, "coefficient": coefficients}
    varying = tuple(name for name, values in axes.items() if len(values) > 1)
    return ScanPlan(recipe, facts, tuple(settings), varying)


def _moved(recipe: Recipe, layer: int | None, coefficient: float | Relative | None) -> Recipe:
    values = {"layer": layer, "coefficient": coefficient}
    kept = {name: value for name, value in values.items() if value is not None}
    first, *others = recipe.additions
    return recipe.model_copy(update={"additions": (first.model_copy(update=kept), *others)})


def _setting(recipe: Recipe, facts: ModelFacts) -> Setting:
    plan = plan_recipe(recipe, facts, recipe.sampling.max_new_tokens)
    blocks = tuple(alignment.block for alignment in plan.alignments if alignment.index == 0)
    return Setting(blocks[0] if len(blocks) == 1 else blocks, recipe.additions[0].coefficient, plan)
